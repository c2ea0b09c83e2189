//! A drawing surface measured in the pixels of the finished figure, the same
//! for vector and bitmap output.

use std::sync::LazyLock;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Where a text is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Left,
    Middle,
    Right,
}

/// Also what the SVG names: the reader's machine takes the first it has.
const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";

static FONTS: LazyLock<bool> = LazyLock::new(|| {
    let regular = include_bytes!("../../data/fonts/DejaVuSans.ttf");
    let bold = include_bytes!("../../data/fonts/DejaVuSans-Bold.ttf");
    register_font(FAMILY, FontStyle::Normal, regular).is_ok()
        && register_font(FAMILY, FontStyle::Bold, bold).is_ok()
});

/// Height of the font (ascent + descent) over its size: plotters' bitmap fonts
/// are asked for by height.
const HEIGHT_PER_EM: f64 = 1.164;

/// A text to draw: size in pixels per em.
#[derive(Debug, Clone, Copy)]
pub(super) struct Type {
    pub em: f64,
    pub bold: bool,
    pub colour: RGBColor,
}

impl Type {
    pub fn new(em: f64, colour: RGBColor) -> Self {
        Type { em, bold: false, colour }
    }

    pub fn bold(self) -> Self {
        Type { bold: true, ..self }
    }

    /// The width of a text in pixels.
    pub fn width(self, text: &str) -> Result<f64> {
        if !*FONTS {
            return Err(anyhow!("the built-in font does not load"));
        }
        // Measured large, because widths come as whole pixels.
        let style = if self.bold { FontStyle::Bold } else { FontStyle::Normal };
        let font = FontDesc::new(FontFamily::Name(FAMILY), 100.0 * HEIGHT_PER_EM, style);
        let (width, _) = font.box_size(text).map_err(|e| anyhow!("{e}"))?;
        Ok(f64::from(width) / 100.0 * self.em)
    }

    /// The same, made smaller (not below `least`) until `text` fits `width`.
    pub fn fitted(self, text: &str, width: f64, least: f64) -> Result<Self> {
        let needed = self.width(text)?;
        let em = if needed > width { self.em * width / needed } else { self.em };
        Ok(Type { em: em.max(least.min(self.em)), ..self })
    }
}

/// A plotters area with a scale: coordinates are pixels of the finished figure,
/// however finely the area below is divided.
pub(super) struct Canvas<B: DrawingBackend> {
    area: DrawingArea<B, Shift>,
    scale: f64,
    /// Size plotters must be asked for to get one pixel per em, and how far
    /// below the top anchor it puts the base line, in sizes. The two back ends
    /// differ in both.
    size_per_em: f64,
    drop: f64,
}

impl<B: DrawingBackend> Canvas<B> {
    /// For the vector back end, one unit to the pixel.
    pub fn vector(area: DrawingArea<B, Shift>) -> Self {
        Canvas { area, scale: 1.0, size_per_em: 1.24, drop: 0.76 / 1.24 }
    }

    /// For the bitmap back end, `scale` pixels of the area to one of the figure.
    pub fn bitmap(area: DrawingArea<B, Shift>, scale: f64) -> Self {
        Canvas { area, scale, size_per_em: HEIGHT_PER_EM, drop: 0.5 }
    }

    fn at(&self, (x, y): (f64, f64)) -> (i32, i32) {
        ((x * self.scale).round() as i32, (y * self.scale).round() as i32)
    }

    fn stroke(&self, colour: &impl Color, width: f64) -> ShapeStyle {
        colour.stroke_width((width * self.scale).round().max(1.0) as u32)
    }

    pub fn fill(&self, colour: RGBColor) -> Result<()> {
        self.area.fill(&colour).map_err(|e| anyhow!("{e}"))
    }

    pub fn rect(&self, from: (f64, f64), to: (f64, f64), colour: RGBColor) -> Result<()> {
        let shape = Rectangle::new([self.at(from), self.at(to)], colour.filled());
        self.area.draw(&shape).map_err(|e| anyhow!("{e}"))
    }

    /// A horizontal or vertical line as a filled rectangle, which stays crisp
    /// where a stroked line of even width would straddle two pixels.
    pub fn rule(&self, from: (f64, f64), to: (f64, f64), width: f64, c: RGBColor) -> Result<()> {
        let half = width / 2.0;
        let (dx, dy) = if (from.0 - to.0).abs() < f64::EPSILON { (half, 0.0) } else { (0.0, half) };
        // From a rounded corner, so that equal widths come out equal.
        let corner = ((from.0 - dx).round(), (from.1 - dy).round());
        let far = if dx > 0.0 { (corner.0 + width, to.1) } else { (to.0, corner.1 + width) };
        self.rect(corner, far, c)
    }

    /// A dashed horizontal line.
    pub fn dashes(&self, from: (f64, f64), to_x: f64, width: f64, c: RGBColor) -> Result<()> {
        const DASH: f64 = 9.0;
        const GAP: f64 = 6.0;
        let mut x = from.0;
        while x < to_x {
            self.rule((x, from.1), ((x + DASH).min(to_x), from.1), width, c)?;
            x += DASH + GAP;
        }
        Ok(())
    }

    pub fn polygon(&self, points: &[(f64, f64)], colour: RGBColor) -> Result<()> {
        let points: Vec<_> = points.iter().map(|p| self.at(*p)).collect();
        self.area.draw(&Polygon::new(points, colour.filled())).map_err(|e| anyhow!("{e}"))
    }

    /// Light diagonal strokes over a rectangle given by two corners.
    pub fn hatch(&self, (x0, y0): (f64, f64), (x1, y1): (f64, f64)) -> Result<()> {
        const STEP: f64 = 9.0;
        let (w, h) = (x1 - x0, y1 - y0);
        let style = self.stroke(&WHITE.mix(0.55), 1.6);
        let mut t = STEP;
        while t < w + h {
            // The points of the rectangle with (right + up) = t, at both ends.
            let low = ((t - h).max(0.0), t.min(h));
            let high = (t.min(w), (t - w).max(0.0));
            let line = [low, high].map(|(right, up)| self.at((x0 + right, y1 - up)));
            self.area.draw(&PathElement::new(line, style)).map_err(|e| anyhow!("{e}"))?;
            t += STEP;
        }
        Ok(())
    }

    /// A text on a base line.
    pub fn text(&self, text: &str, at: (f64, f64), anchor: Anchor, font: Type) -> Result<()> {
        self.turned(text, at, anchor, font, false)
    }

    /// A text that reads upwards; `at` is on its base line.
    pub fn text_up(&self, text: &str, at: (f64, f64), anchor: Anchor, font: Type) -> Result<()> {
        self.turned(text, at, anchor, font, true)
    }

    fn turned(&self, t: &str, at: (f64, f64), anchor: Anchor, f: Type, up: bool) -> Result<()> {
        if !*FONTS {
            return Err(anyhow!("the built-in font does not load"));
        }
        let size = f.em * self.size_per_em;
        let style = if f.bold { FontStyle::Bold } else { FontStyle::Normal };
        let turn = if up { FontTransform::Rotate270 } else { FontTransform::None };
        let font = FontDesc::new(FontFamily::Name(FAMILY), size * self.scale, style);
        let horizontal = match anchor {
            Anchor::Left => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::Right => HPos::Right,
        };
        let style = font.transform(turn).color(&f.colour).pos(Pos::new(horizontal, VPos::Top));
        let drop = self.drop * size;
        let top = if up { (at.0 - drop, at.1) } else { (at.0, at.1 - drop) };
        self.area.draw_text(t, &style, self.at(top)).map_err(|e| anyhow!("{e}"))
    }

    /// A text with a white rim, legible over whatever it lies on.
    pub fn text_over(&self, t: &str, at: (f64, f64), anchor: Anchor, font: Type) -> Result<()> {
        let rim = Type { colour: WHITE, ..font };
        for (dx, dy) in [
            (-2.0, 0.0),
            (2.0, 0.0),
            (0.0, -2.0),
            (0.0, 2.0),
            (-1.4, -1.4),
            (1.4, -1.4),
            (-1.4, 1.4),
            (1.4, 1.4),
        ] {
            self.text(t, (at.0 + dx, at.1 + dy), anchor, rim)?;
        }
        self.text(t, at, anchor, font)
    }

    /// Finishes the drawing.
    pub fn present(&self) -> Result<()> {
        self.area.present().map_err(|e| anyhow!("{e}"))
    }
}
