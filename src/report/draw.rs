//! Where everything of a figure of bars goes.

use anyhow::Result;
use plotters::prelude::{DrawingBackend, RGBColor, WHITE};

use super::canvas::{Anchor, Canvas, Type};
use super::figure::{Bar, Bars, Group, Panel, SIZE, Style};

const INK: RGBColor = RGBColor(0x1A, 0x1A, 0x1A);
const SOFT: RGBColor = RGBColor(0x5A, 0x5A, 0x5A);
const GRID: RGBColor = RGBColor(0xE4, 0xE4, 0xE4);

/// Left of the first panel: the axis with its title.
const LEFT: f64 = 92.0;
const RIGHT: f64 = 14.0;
/// To the right of every panel, for the names of the lines that cross it.
const GUTTER: f64 = 66.0;
const BOTTOM: f64 = 18.0;
const COLUMNS: usize = 3;
const LINE_HEIGHT: f64 = 33.0;

fn rgb(style: Style) -> RGBColor {
    RGBColor(style.rgb.0, style.rgb.1, style.rgb.2)
}

/// Draws the whole figure.
pub(super) fn bars<B: DrawingBackend>(canvas: &Canvas<B>, spec: &Bars) -> Result<()> {
    let (width, height) = (f64::from(SIZE.0), f64::from(SIZE.1));
    canvas.fill(WHITE)?;
    let room = width - 60.0;
    let title = Type::new(34.0, INK).bold().fitted(&spec.title, room, 22.0)?;
    canvas.text(&spec.title, (30.0, 50.0), Anchor::Left, title)?;
    let mut y = 50.0;
    if !spec.subtitle.is_empty() {
        let subtitle = Type::new(20.0, SOFT).fitted(&spec.subtitle, room, 15.0)?;
        y += 34.0;
        canvas.text(&spec.subtitle, (30.0, y), Anchor::Left, subtitle)?;
    }
    y = legend(canvas, spec, y + 42.0)?;

    let columns = spec.panels.len().clamp(1, COLUMNS);
    let lines = spec.panels.len().div_ceil(columns).max(1);
    let cell = ((width - LEFT - RIGHT) / columns as f64, (height - y - BOTTOM) / lines as f64);
    for (i, panel) in spec.panels.iter().enumerate() {
        let column = i % columns;
        let corner = (LEFT + column as f64 * cell.0, y + (i / columns) as f64 * cell.1);
        let place = Place::new(corner, cell, panel);
        if column == 0 {
            let middle = (place.y(100.0) + place.y(0.0)) / 2.0;
            let font = Type::new(18.0, INK);
            canvas.text_up(&spec.y_label, (LEFT - 56.0, middle), Anchor::Middle, font)?;
        }
        grid(canvas, &place, column == 0)?;
        draw_panel(canvas, spec, panel, &place)?;
    }
    Ok(())
}

/// Grid lines; all panels of a line share the numbers beside the first.
fn grid<B: DrawingBackend>(canvas: &Canvas<B>, place: &Place, numbers: bool) -> Result<()> {
    for tick in [0.0, 20.0, 40.0, 60.0, 80.0, 100.0] {
        let y = place.y(tick);
        canvas.rule((place.left, y), (place.right, y), 1.0, GRID)?;
        if numbers {
            let at = (place.left - 8.0, y + 6.0);
            canvas.text(&format!("{tick}"), at, Anchor::Right, Type::new(17.0, SOFT))?;
        }
    }
    Ok(())
}

/// The rectangle in which the bars of a panel stand.
struct Place {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Place {
    fn new((x, y): (f64, f64), (w, h): (f64, f64), panel: &Panel) -> Self {
        let label_lines = panel.groups.iter().map(|g| g.label.lines().count()).max().unwrap_or(1);
        Place {
            left: x.round(),
            right: (x + w - GUTTER).round(),
            top: (y + 54.0).round(),
            bottom: (y + h - 16.0 - 21.0 * label_lines as f64).round(),
        }
    }

    /// Where an accuracy lies; beyond 0…100 it is drawn at the end.
    fn y(&self, percent: f64) -> f64 {
        let share = percent.clamp(0.0, 100.0) / 100.0;
        self.bottom - share * (self.bottom - self.top)
    }
}

fn draw_panel<B: DrawingBackend>(
    canvas: &Canvas<B>,
    spec: &Bars,
    panel: &Panel,
    place: &Place,
) -> Result<()> {
    let &Place { left, right, .. } = place;
    let title = Type::new(25.0, INK).bold();
    canvas.text(&panel.title, (left, place.top - 18.0), Anchor::Left, title)?;
    let room = right - left - title.width(&panel.title)? - 20.0;
    let note = Type::new(16.0, SOFT).fitted(&panel.note, room, 12.0)?;
    canvas.text(&panel.note, (right, place.top - 18.0), Anchor::Right, note)?;

    let step = (right - left) / panel.groups.len().max(1) as f64;
    // Bars fill most of a group; the rest parts it from its neighbours.
    let inset = (0.08 * step).clamp(4.0, 40.0);
    let ends = |i: usize| {
        let from = left + i as f64 * step;
        (from + inset, from + step - inset)
    };
    for (i, group) in panel.groups.iter().enumerate() {
        draw_bars(canvas, spec, group, place, ends(i))?;
        let middle = left + (i as f64 + 0.5) * step;
        for (line, text) in group.label.lines().enumerate() {
            let font = Type::new(17.0, INK).fitted(text, step - 6.0, 12.0)?;
            let at = (middle, place.bottom + 23.0 + 21.0 * line as f64);
            canvas.text(text, at, Anchor::Middle, font)?;
        }
    }
    canvas.rule((left, place.bottom), (right, place.bottom), 2.0, INK)?;

    // Lines lie over the bars but under what is measured on the bars.
    if let Some(chance) = panel.chance {
        let y = place.y(chance);
        canvas.dashes((left, y), right, 4.0, WHITE)?;
        canvas.dashes((left, y), right, 2.0, INK)?;
        canvas.text("chance", (right + 5.0, y + 5.5), Anchor::Left, Type::new(16.0, INK))?;
    }
    let lines = teachers(panel, place, (step, inset));
    for line in &lines {
        canvas.rule((line.from, line.y), (line.to, line.y), 7.0, WHITE)?;
        canvas.rule((line.from, line.y), (line.to, line.y), 3.0, INK)?;
    }
    for (i, group) in panel.groups.iter().enumerate() {
        draw_marks(canvas, spec, group, place, ends(i))?;
    }
    let chance_y = panel.chance.map_or(f64::INFINITY, |chance| place.y(chance));
    for line in &lines {
        teacher_name(canvas, line, place, chance_y)?;
    }
    Ok(())
}

/// The name and place of a teacher's line.
struct TeacherLine<'a> {
    name: &'a str,
    from: f64,
    to: f64,
    y: f64,
    across: bool,
}

/// One line per run of neighbouring groups with the same teacher.
fn teachers<'a>(
    panel: &'a Panel,
    place: &Place,
    (step, inset): (f64, f64),
) -> Vec<TeacherLine<'a>> {
    let mut lines = Vec::new();
    let mut start = 0;
    for run in panel.groups.chunk_by(|a, b| a.teacher == b.teacher) {
        let end = start + run.len();
        if let Some((name, accuracy)) = &run[0].teacher {
            lines.push(TeacherLine {
                name,
                from: place.left + start as f64 * step + 0.4 * inset,
                to: place.left + end as f64 * step - 0.4 * inset,
                y: place.y(*accuracy),
                across: run.len() == panel.groups.len(),
            });
        }
        start = end;
    }
    lines
}

fn teacher_name<B: DrawingBackend>(
    canvas: &Canvas<B>,
    line: &TeacherLine<'_>,
    place: &Place,
    chance_y: f64,
) -> Result<()> {
    let font = Type::new(16.0, INK).bold();
    if line.across {
        // The name goes beside the panel, out of the way of the word there.
        let near = (line.y - chance_y).abs() < 18.0;
        let base = if near { chance_y - 13.0 } else { line.y + 5.5 };
        let font = font.fitted(line.name, GUTTER - 10.0, 11.0)?;
        canvas.text(line.name, (place.right + 5.0, base), Anchor::Left, font)
    } else {
        // At the left, where the bars of a group are mostly lower.
        let font = font.fitted(line.name, line.to - line.from, 11.0)?;
        canvas.text_over(line.name, (line.from + 2.0, line.y - 8.0), Anchor::Left, font)
    }
}

/// Where the bars of a group stand between two horizontal positions.
fn spans(count: usize, (from, to): (f64, f64)) -> Vec<(f64, f64)> {
    const GAP: f64 = 2.0;
    // A single pair of bars in a wide panel should not become two walls.
    let width = ((to - from) / count.max(1) as f64).min(64.0);
    let start = f64::midpoint(from, to) - width * count as f64 / 2.0;
    let edge = |i: usize| start + i as f64 * width;
    (0..count).map(|i| ((edge(i) + GAP / 2.0).round(), (edge(i + 1) - GAP / 2.0).round())).collect()
}

/// The bars a group has, each with its style and span.
fn drawn<'a>(
    spec: &'a Bars,
    group: &'a Group,
    ends: (f64, f64),
) -> impl Iterator<Item = (Bar, Style, (f64, f64))> + 'a {
    let spans = spans(spec.series.len(), ends);
    let bars = group.bars.iter().zip(&spec.series).zip(spans);
    bars.filter_map(|((bar, series), span)| bar.map(|bar| (bar, series.style, span)))
}

/// The bars themselves and the mark of the untuned student.
fn draw_bars<B: DrawingBackend>(
    canvas: &Canvas<B>,
    spec: &Bars,
    group: &Group,
    place: &Place,
    ends: (f64, f64),
) -> Result<()> {
    for (bar, style, (x0, x1)) in drawn(spec, group, ends) {
        let top = place.y(bar.mean);
        canvas.rect((x0, top), (x1, place.bottom), rgb(style))?;
        if style.hatched {
            canvas.hatch((x0, top), (x1, place.bottom))?;
        }
    }
    let spans = spans(spec.series.len(), ends);
    if let (Some(untuned), Some(first), Some(last)) = (group.untuned, spans.first(), spans.last()) {
        untuned_mark(canvas, (first.0 - 3.0, last.1 + 3.0), place.y(untuned))?;
    }
    Ok(())
}

/// Intervals, values and published values.
fn draw_marks<B: DrawingBackend>(
    canvas: &Canvas<B>,
    spec: &Bars,
    group: &Group,
    place: &Place,
    ends: (f64, f64),
) -> Result<()> {
    for (bar, style, span) in drawn(spec, group, ends) {
        whisker(canvas, place, &bar, span)?;
        value(canvas, place, &bar, style, span)?;
        if let Some(published) = bar.published {
            let x = f64::midpoint(span.0, span.1);
            diamond(canvas, (x, place.y(published)), 6.0)?;
        }
    }
    Ok(())
}

/// The 95 % interval of a bar.
fn whisker<B: DrawingBackend>(
    canvas: &Canvas<B>,
    place: &Place,
    bar: &Bar,
    (x0, x1): (f64, f64),
) -> Result<()> {
    if !(bar.low.is_finite() && bar.high.is_finite()) {
        return Ok(());
    }
    let (low, high) = (place.y(bar.low), place.y(bar.high));
    let x = f64::midpoint(x0, x1);
    let cap = ((x1 - x0) * 0.22).clamp(3.0, 7.0);
    canvas.rule((x, high), (x, low), 2.0, INK)?;
    for y in [low, high] {
        canvas.rule((x - cap, y), (x + cap, y), 2.0, INK)?;
    }
    Ok(())
}

/// The rounded accuracy at the foot of a bar wide and tall enough for it.
fn value<B: DrawingBackend>(
    canvas: &Canvas<B>,
    place: &Place,
    bar: &Bar,
    style: Style,
    (x0, x1): (f64, f64),
) -> Result<()> {
    let text = format!("{:.0}", bar.mean);
    let colour = if luminance(style) > 0.3 { INK } else { WHITE };
    // With room to the numbers of the neighbours.
    let room = x1 - x0 - 2.0;
    let regular = Type::new(16.0, colour).fitted(&text, room, 12.0)?;
    let font = if regular.em > 14.0 { regular.bold().fitted(&text, room, 12.0)? } else { regular };
    if font.width(&text)? > room + 0.5 || place.bottom - place.y(bar.low.min(bar.mean)) < 26.0 {
        return Ok(());
    }
    let at = (f64::midpoint(x0, x1), place.bottom - 8.0);
    if style.hatched {
        // Strokes through figures are hard to read.
        canvas.rect((x0, at.1 - 14.0), (x1, place.bottom), rgb(style))?;
    }
    canvas.text(&text, at, Anchor::Middle, font)
}

/// Relative luminance of the WCAG, 0 black to 1 white.
fn luminance(style: Style) -> f64 {
    let linear = |c: u8| {
        let c = f64::from(c) / 255.0;
        if c <= 0.040_45 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    };
    let (r, g, b) = style.rgb;
    0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
}

fn untuned_mark<B: DrawingBackend>(canvas: &Canvas<B>, (x0, x1): (f64, f64), y: f64) -> Result<()> {
    canvas.rule((x0, y), (x1, y), 5.0, WHITE)?;
    canvas.rule((x0, y), (x1, y), 2.0, SOFT)?;
    canvas.polygon(&[(x0 - 5.0, y - 7.0), (x0 + 7.0, y), (x0 - 5.0, y + 7.0)], SOFT)
}

fn diamond<B: DrawingBackend>(canvas: &Canvas<B>, (x, y): (f64, f64), r: f64) -> Result<()> {
    let shape = |r: f64| [(x - r, y), (x, y - r), (x + r, y), (x, y + r)];
    canvas.polygon(&shape(r + 2.0), INK)?;
    canvas.polygon(&shape(r - 1.0), WHITE)
}

/// What the marks of a figure mean.
enum Mark {
    Swatch(Style),
    Whisker,
    Untuned,
    Teacher,
    Chance,
    Published,
}

/// Draws the legend from base line `y` on, breaking lines as needed; returns
/// where the panels may start.
fn legend<B: DrawingBackend>(canvas: &Canvas<B>, spec: &Bars, mut y: f64) -> Result<f64> {
    const SYMBOL: f64 = 38.0;
    const SPACE: f64 = 28.0;
    let groups = || spec.panels.iter().flat_map(|panel| &panel.groups);
    let bars = || groups().flat_map(|group| group.bars.iter().flatten());
    let mut entries: Vec<(Mark, &str)> =
        spec.series.iter().map(|s| (Mark::Swatch(s.style), s.name.as_str())).collect();
    let series = entries.len();
    if groups().any(|group| group.teacher.is_some()) {
        entries.push((Mark::Teacher, &spec.teacher));
    }
    if groups().any(|group| group.untuned.is_some()) {
        entries.push((Mark::Untuned, &spec.untuned));
    }
    if spec.panels.iter().any(|panel| panel.chance.is_some()) {
        entries.push((Mark::Chance, "chance"));
    }
    if bars().any(|bar| bar.low.is_finite()) {
        entries.push((Mark::Whisker, "95 % interval"));
    }
    if bars().any(|bar| bar.published.is_some()) {
        entries.push((Mark::Published, "published value"));
    }
    let font = Type::new(19.0, INK);
    let mut widths = Vec::with_capacity(entries.len());
    for (_, name) in &entries {
        widths.push(SYMBOL + font.width(name)? + SPACE);
    }
    let end = f64::from(SIZE.0) - 30.0 + SPACE;
    let one_line = 30.0 + widths.iter().sum::<f64>() <= end;
    let mut x = 30.0;
    for (i, ((mark, name), width)) in entries.iter().zip(&widths).enumerate() {
        // Marks start a line of their own unless everything fits on one.
        if x > 30.0 && (x + width > end || (i == series && !one_line)) {
            x = 30.0;
            y += LINE_HEIGHT;
        }
        symbol(canvas, mark, (x, y))?;
        canvas.text(name, (x + SYMBOL, y), Anchor::Left, font)?;
        x += width;
    }
    Ok(y + 16.0)
}

/// A legend symbol on base line `y`, 30 pixels wide.
fn symbol<B: DrawingBackend>(canvas: &Canvas<B>, mark: &Mark, (x, y): (f64, f64)) -> Result<()> {
    let middle = (x + 15.0, y - 7.0);
    let (left, right) = ((x, middle.1), (x + 30.0, middle.1));
    match mark {
        Mark::Swatch(style) => {
            let (from, to) = ((x + 2.0, y - 18.0), (x + 30.0, y + 3.0));
            canvas.rect(from, to, rgb(*style))?;
            if style.hatched { canvas.hatch(from, to) } else { Ok(()) }
        }
        Mark::Whisker => {
            canvas.rule((middle.0, y - 18.0), (middle.0, y + 4.0), 2.0, INK)?;
            for end in [y - 18.0, y + 4.0] {
                canvas.rule((middle.0 - 6.0, end), (middle.0 + 6.0, end), 2.0, INK)?;
            }
            Ok(())
        }
        Mark::Untuned => untuned_mark(canvas, (x + 5.0, x + 30.0), middle.1),
        Mark::Teacher => canvas.rule(left, right, 3.0, INK),
        Mark::Chance => canvas.dashes(left, right.0, 2.0, INK),
        Mark::Published => diamond(canvas, middle, 6.0),
    }
}
