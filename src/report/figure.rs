//! Figures: small multiples of grouped bars, as SVG and PNG.

use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use plotters::prelude::*;

use super::canvas::Canvas;
use super::draw;
use super::file::replace;
use super::notebook::Svg;
use crate::study::Row;
use crate::task::Benchmark;

/// Width and height of every figure in pixels.
pub const SIZE: (u32, u32) = (1600, 1000);

/// The bitmap is drawn this many times larger and averaged down, because
/// plotters does not smooth the edges of shapes.
const OVERSAMPLING: u32 = 3;

/// How the bars of a series are painted.
///
/// Colours are of the palette of Okabe & Ito, told apart by readers with any
/// colour vision; hatching (and the order of the bars) keeps those apart that
/// are equally light in grey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub rgb: (u8, u8, u8),
    pub hatched: bool,
}

impl Style {
    const fn plain(rgb: (u8, u8, u8)) -> Self {
        Style { rgb, hatched: false }
    }

    const fn hatched(rgb: (u8, u8, u8)) -> Self {
        Style { rgb, hatched: true }
    }

    // Blue for plain answers, orange for step-by-step answers; light for all of
    // them, dark for the correct ones.

    /// All plain answers: sky blue.
    pub const DEMONSTRATIONS: Style = Style::plain((0x56, 0xB4, 0xE9));
    /// Correct plain answers: blue.
    pub const TRUTHFUL: Style = Style::plain((0x00, 0x72, 0xB2));
    /// All step-by-step answers: orange, hatched.
    pub const COT_DEMONSTRATIONS: Style = Style::hatched((0xE6, 0x9F, 0x00));
    /// Correct step-by-step answers: vermilion, hatched.
    pub const DELIVERING_COT: Style = Style::hatched((0xD5, 0x5E, 0x00));
    /// Before any tuning: light grey.
    pub const UNTUNED: Style = Style::plain((0xB8, 0xB8, 0xB8));
    /// After the first phase: blue.
    pub const INSTRUCTION_TUNED: Style = Style::plain((0x00, 0x72, 0xB2));
    /// After the second phase: vermilion, hatched.
    pub const SELF_REFINED: Style = Style::hatched((0xD5, 0x5E, 0x00));
    /// Asked with the plain prompt: sky blue.
    pub const PLAIN_PROMPT: Style = Style::DEMONSTRATIONS;
    /// Asked with the step-by-step prompt: vermilion, hatched.
    pub const COT_PROMPT: Style = Style::DELIVERING_COT;
}

/// A kind of bar: an entry of the legend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    pub name: String,
    pub style: Style,
}

/// One bar with its 95 % interval, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    /// Drawn as a hollow diamond.
    pub published: Option<f64>,
}

/// The bars that stand together.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Below the bars; `\n` starts a second line.
    pub label: String,
    /// One per series; `None` leaves a gap.
    pub bars: Vec<Option<Bar>>,
    /// Accuracy of the student before tuning, drawn across the group.
    pub untuned: Option<f64>,
    /// Short name and accuracy of the teacher. Neighbours with the same
    /// teacher share one line.
    pub teacher: Option<(String, f64)>,
}

/// One panel, usually a benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    pub title: String,
    /// Small print beside the title, such as `n = 500 × 3 seeds`.
    pub note: String,
    /// Accuracy of guessing in percent.
    pub chance: Option<f64>,
    pub groups: Vec<Group>,
}

/// A figure of grouped bars.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    pub title: String,
    pub subtitle: String,
    pub y_label: String,
    /// What the legend calls the mark of the untuned student.
    pub untuned: String,
    /// What the legend calls the teacher's line.
    pub teacher: String,
    pub series: Vec<Series>,
    /// Drawn three to a line.
    pub panels: Vec<Panel>,
}

/// Conditions on a row; those left out are not asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pick {
    pub student: Option<String>,
    pub teacher: Option<String>,
    pub method: Option<String>,
    pub demonstrations: Option<String>,
    /// What follows the benchmark's name in `eval_task`, such as `(train)`.
    pub split: Option<String>,
}

impl Pick {
    pub fn new() -> Self {
        Pick::default()
    }

    pub fn student(self, name: &str) -> Self {
        Pick { student: Some(name.into()), ..self }
    }

    pub fn teacher(self, name: &str) -> Self {
        Pick { teacher: Some(name.into()), ..self }
    }

    pub fn method(self, name: &str) -> Self {
        Pick { method: Some(name.into()), ..self }
    }

    pub fn demonstrations(self, name: &str) -> Self {
        Pick { demonstrations: Some(name.into()), ..self }
    }

    pub fn split(self, name: &str) -> Self {
        Pick { split: Some(name.into()), ..self }
    }

    /// These conditions, and those of `other` where this one asks nothing.
    fn or(&self, other: &Pick) -> Pick {
        let first = |a: &Option<String>, b: &Option<String>| a.clone().or_else(|| b.clone());
        Pick {
            student: first(&self.student, &other.student),
            teacher: first(&self.teacher, &other.teacher),
            method: first(&self.method, &other.method),
            demonstrations: first(&self.demonstrations, &other.demonstrations),
            split: first(&self.split, &other.split),
        }
    }

    fn meets(&self, row: &Row, task: Benchmark) -> bool {
        let same = |want: &Option<String>, have: &str| want.as_deref().is_none_or(|w| w == have);
        same(&self.student, &row.student)
            && same(&self.teacher, &row.teacher)
            && same(&self.method, &row.method)
            && same(&self.demonstrations, &row.demonstrations)
            && row.eval_task.strip_prefix(task.name()) == Some(self.split.as_deref().unwrap_or(""))
    }

    /// The one row that meets these conditions for `task`, if any.
    ///
    /// Among rows trained on several benchmarks the one trained on `task`
    /// itself is meant.
    fn find<'a>(&self, rows: &'a [Row], task: Benchmark, metric: &str) -> Result<Option<&'a Row>> {
        let mut found: Vec<&Row> =
            rows.iter().filter(|r| r.metric == metric && self.meets(r, task)).collect();
        if found.len() > 1 {
            found.retain(|row| row.train_task == task.name());
            if found.len() != 1 {
                bail!("not one but several rows, or none trained on {task}, meet {self:?}");
            }
        }
        Ok(found.first().copied())
    }
}

/// A group of bars, the same in every panel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupBy {
    pub label: String,
    pub pick: Pick,
    /// Which row is the untuned student; `None` for no mark.
    pub untuned: Option<Pick>,
    /// Short name of the teacher and which row is its accuracy; `None` for no line.
    pub teacher: Option<(String, Pick)>,
}

impl GroupBy {
    /// Without marks.
    pub fn new(label: &str, pick: Pick) -> Self {
        GroupBy { label: label.into(), pick, untuned: None, teacher: None }
    }

    /// Marks the untuned student.
    pub fn untuned(self, pick: Pick) -> Self {
        GroupBy { untuned: Some(pick), ..self }
    }

    /// Draws the teacher's line, called `name`.
    pub fn teacher(self, name: &str, pick: Pick) -> Self {
        GroupBy { teacher: Some((name.into(), pick)), ..self }
    }
}

/// A series of bars; where its conditions and the group's differ, its own hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesBy {
    pub series: Series,
    pub pick: Pick,
}

impl SeriesBy {
    pub fn new(name: &str, style: Style, pick: Pick) -> Self {
        SeriesBy { series: Series { name: name.into(), style }, pick }
    }
}

/// How [`Bars::from_rows`] picks the bars out of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub title: String,
    pub subtitle: String,
    /// What the legend calls the teacher's line.
    pub teacher: String,
    /// One panel each.
    pub tasks: Vec<Benchmark>,
    pub groups: Vec<GroupBy>,
    pub series: Vec<SeriesBy>,
}

impl Bars {
    /// Picks accuracies out of the rows. A bar without a row is left out; two
    /// rows for one bar are an error.
    pub fn from_rows(rows: &[Row], layout: &Layout) -> Result<Bars> {
        let metric = "accuracy";
        let mut panels = Vec::with_capacity(layout.tasks.len());
        for &task in &layout.tasks {
            let mut used: Vec<&Row> = Vec::new();
            let mut groups = Vec::with_capacity(layout.groups.len());
            for group in &layout.groups {
                let mut bars = Vec::with_capacity(layout.series.len());
                for series in &layout.series {
                    let row = series.pick.or(&group.pick).find(rows, task, metric)?;
                    used.extend(row);
                    bars.push(row.map(|r| Bar {
                        mean: r.mean,
                        low: r.ci_low,
                        high: r.ci_high,
                        published: r.published,
                    }));
                }
                let untuned = match &group.untuned {
                    Some(pick) => pick.find(rows, task, metric)?.map(|r| r.mean),
                    None => None,
                };
                let teacher = match &group.teacher {
                    Some((name, pick)) => {
                        pick.find(rows, task, metric)?.map(|r| (name.clone(), r.mean))
                    }
                    None => None,
                };
                groups.push(Group { label: group.label.clone(), bars, untuned, teacher });
            }
            panels.push(Panel {
                title: task.name().into(),
                note: sample_size(&used),
                chance: Some(task.chance()).filter(|&c| c > 0.0),
                groups,
            });
        }
        Ok(Bars {
            title: layout.title.clone(),
            subtitle: layout.subtitle.clone(),
            y_label: "accuracy (%)".into(),
            untuned: "untuned student".into(),
            teacher: layout.teacher.clone(),
            series: layout.series.iter().map(|s| s.series.clone()).collect(),
            panels,
        })
    }
}

/// `n = 500 × 3 seeds`, or a range where the rows differ.
fn sample_size(rows: &[&Row]) -> String {
    let range = |values: Vec<u64>| match (values.iter().min(), values.iter().max()) {
        (Some(a), Some(b)) if a == b => a.to_string(),
        (Some(a), Some(b)) => format!("{a}–{b}"),
        _ => String::new(),
    };
    if rows.is_empty() {
        return String::new();
    }
    let n = range(rows.iter().map(|row| row.n).collect());
    let seeds = range(rows.iter().map(|row| u64::from(row.seeds)).collect());
    if seeds == "1" { format!("n = {n}") } else { format!("n = {n} × {seeds} seeds") }
}

/// Writes `<name>.svg` and `<name>.png`. Equal specifications give equal bytes.
pub fn grouped_bars(spec: &Bars, dir: &Path, name: &str) -> Result<()> {
    let Svg(svg) = svg(spec)?;
    replace(dir, &format!("{name}.svg"), |path| Ok(fs::write(path, &svg)?))?;
    let pixels = pixels(spec)?;
    replace(dir, &format!("{name}.png"), |path| {
        let mut image = BitMapBackend::new(path, SIZE);
        image.blit_bitmap((0, 0), SIZE, &pixels).map_err(|e| anyhow!("{e}"))?;
        image.present().map_err(|e| anyhow!("{e}"))
    })
}

/// The figure as SVG, for a notebook cell.
pub fn svg(spec: &Bars) -> Result<Svg> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let canvas = Canvas::vector(area);
        draw::bars(&canvas, spec)?;
        canvas.present()?;
    }
    Ok(Svg(text))
}

/// The figure as rows of RGB bytes.
fn pixels(spec: &Bars) -> Result<Vec<u8>> {
    let (w, h) = (SIZE.0 as usize, SIZE.1 as usize);
    let k = OVERSAMPLING as usize;
    let mut large = vec![0; 3 * w * k * h * k];
    {
        let size = (SIZE.0 * OVERSAMPLING, SIZE.1 * OVERSAMPLING);
        let area = BitMapBackend::with_buffer(&mut large, size).into_drawing_area();
        let canvas = Canvas::bitmap(area, f64::from(OVERSAMPLING));
        draw::bars(&canvas, spec)?;
        canvas.present()?;
    }
    let line = 3 * w * k;
    let mut small = Vec::with_capacity(3 * w * h);
    for y in 0..h {
        for x in 0..w {
            for channel in 0..3 {
                let from = y * k * line + 3 * x * k + channel;
                let sum: usize =
                    (0..k * k).map(|i| usize::from(large[from + i / k * line + 3 * (i % k)])).sum();
                small.push(((sum + k * k / 2) / (k * k)) as u8);
            }
        }
    }
    Ok(small)
}
