//! What all pictures have in common: size, letters, axes. The only file that knows the charting library.

use crate::Result;
use crate::report::numbers;
use crate::report::palette::{Color, LINE, MUTED};
use crate::report::visible::visible;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::drawing::IntoDrawingArea;
use plotters::element::{Circle, PathElement, Rectangle, Text};
use plotters::prelude::SVGBackend;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, IntoFont, RGBColor, TRANSPARENT, TextStyle};
use std::ops::Range;

/// Pixels of a picture; the page scales it. Coordinates are whole pixels, so there are more than will be seen.
const SIZE: (u32, u32) = (960, 600);
/// Of letters: about 14 pixels on a page of two columns, 10 on a phone.
const LETTERS: f64 = 33.0;

/// One axis: its ends and where it is marked.
#[derive(Clone)]
pub struct Scale {
    pub from: f64,
    pub to: f64,
    /// Places and what is written there.
    pub marks: Vec<(f64, String)>,
}

impl Scale {
    /// From 0 to `largest`, marked at round numbers with a unit.
    pub fn linear(largest: f64, unit: &str) -> Scale {
        Scale::between(0.0, largest, unit)
    }

    /// Between any two numbers, marked at round ones.
    pub fn between(from: f64, to: f64, unit: &str) -> Scale {
        let to = if to > from { to } else { from + 1.0 };
        let rough = (to - from) / 4.5;
        let power = rough.log10().floor();
        let steps = [(1.0, 0.0), (2.0, 0.0), (2.5, 1.0), (5.0, 0.0), (10.0, -1.0)];
        let steps = steps.map(|(step, digits)| (step * 10f64.powf(power), digits - power));
        let (step, decimals) = steps.into_iter().find(|(step, _)| *step >= rough).unwrap_or(steps[4]);
        let decimals = decimals.max(0.0) as usize;
        let write = |x: f64| if decimals > 4 || x == 0.0 { numbers::round(x) } else { format!("{x:.decimals$}") };
        let first = (from / step).ceil() as i64;
        let places = (first..).map(|i| i as f64 * step).take_while(|x| *x <= to);
        Scale { from, to, marks: places.map(|x| (x, write(x) + unit)).collect() }
    }

    /// Logarithms to base 10 of positive numbers, marked at powers of ten, or at 1, 2 and 5 of them where those are few.
    pub fn logarithmic(smallest: f64, largest: f64, unit: &str) -> Scale {
        let (from, to) = (smallest.log10() - 0.08, largest.log10() + 0.08);
        let decades = from.floor() as i32..=to.ceil() as i32;
        let every = (((to - from) / 6.0).ceil() as i32).max(1);
        let steps: &[f64] = if to - from < 2.3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let places = decades.filter(|d| d % every == 0).flat_map(|d| steps.iter().map(move |s| s * 10f64.powi(d)));
        let marks =
            places.map(|x| (x.log10(), numbers::round(x) + unit)).filter(|(at, _)| (from..=to).contains(at)).collect();
        Scale { from, to, marks }
    }
}

impl Scale {
    /// Pixels that the longest mark needs beside an upright axis.
    fn room(&self) -> u32 {
        let longest = self.marks.iter().map(|(_, word)| word.chars().count()).max().unwrap_or(0);
        (30.0 + 0.53 * LETTERS * longest as f64) as u32
    }
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let share = (value - self.from) / (self.to - self.from);
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        self.marks.iter().map(|(at, _)| *at).collect()
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Scale {
    fn format_ext(&self, value: &f64) -> String {
        self.marks.iter().find(|(at, _)| at == value).map(|(_, word)| visible(word)).unwrap_or_default()
    }
}

pub type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// A finished picture.
#[derive(Default)]
pub struct Chart {
    /// Empty where there is nothing to draw.
    pub svg: String,
    /// What its colors mean.
    pub legend: Vec<(&'static Color, String)>,
}

/// A picture, and its words for those who cannot see it.
pub struct Picture {
    pub title: &'static str,
    pub description: String,
    pub x: Scale,
    pub y: Scale,
}

impl Picture {
    /// Axes with their marks and thin lines across, and what `fill` draws between them.
    pub fn draw(&self, fill: impl FnOnce(&mut Frame<'_, '_>) -> Drawn) -> Result<Chart> {
        let mut svg = String::new();
        self.draw_into(&mut svg, fill).map_err(|e| format!("drawing {}: {e}", self.title))?;
        // The library's own head gives a fixed size; the page's style gives the width.
        let body = svg.split_once("<svg").and_then(|(_, rest)| rest.split_once('>')).map_or("", |(_, body)| body);
        let (width, height) = SIZE;
        let svg = format!(
            "<svg role=\"img\" viewBox=\"0 0 {width} {height}\" xmlns=\"http://www.w3.org/2000/svg\"><title>{}</title>\
             <desc>{}</desc>{body}",
            escape(self.title),
            escape(&visible(&self.description))
        );
        Ok(Chart { svg, legend: Vec::new() })
    }

    fn draw_into(&self, svg: &mut String, fill: impl FnOnce(&mut Frame<'_, '_>) -> Drawn) -> Drawn {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin_top(16)
            .margin_right(34)
            .margin_bottom(6)
            .x_label_area_size(56)
            .y_label_area_size(self.y.room())
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(LINE.rgb().stroke_width(2))
            .light_line_style(TRANSPARENT)
            .axis_style(LINE.rgb().stroke_width(2))
            .set_all_tick_mark_size(8)
            .label_style(letters(MUTED))
            .draw()?;
        fill(&mut Frame { picture: self, chart })?;
        root.present()?;
        Ok(())
    }
}

/// The inside of a picture, in the axes' units.
pub struct Frame<'p, 's> {
    picture: &'p Picture,
    chart: ChartContext<'p, SVGBackend<'s>, Cartesian2d<Scale, Scale>>,
}

pub type Point = (f64, f64);

impl Frame<'_, '_> {
    pub fn line(&mut self, points: Vec<Point>, color: &Color, width: u32) -> Drawn {
        self.chart.draw_series([PathElement::new(points, color.rgb().stroke_width(width))])?;
        Ok(())
    }

    pub fn dot(&mut self, at: Point, color: &Color, radius: u32) -> Drawn {
        self.chart.draw_series([Circle::new(at, radius, color.rgb().filled())])?;
        Ok(())
    }

    pub fn bar(&mut self, from: Point, to: Point, color: &Color) -> Drawn {
        self.chart.draw_series([Rectangle::new([from, to], color.rgb().filled())])?;
        Ok(())
    }

    /// A word beside a place, where there is room for it; `up` lifts it, in shares of the height.
    pub fn word(&mut self, (x, y): Point, up: f64, word: &str, color: &Color) -> Drawn {
        let (width, height) = (self.picture.x.to - self.picture.x.from, self.picture.y.to - self.picture.y.from);
        let right = x < self.picture.x.from + 0.6 * width;
        let (side, gap) = if right { (HPos::Left, 0.022) } else { (HPos::Right, -0.022) };
        let style = letters(color).pos(Pos::new(side, VPos::Center));
        self.chart.draw_series([Text::new(visible(word), (x + gap * width, y + up * height), style)])?;
        Ok(())
    }

    /// A line across the whole height at `x`, with a word at its top; `above` words are there already.
    pub fn upright(&mut self, x: f64, color: &Color, word: &str, above: usize) -> Drawn {
        let (from, to) = (self.picture.y.from, self.picture.y.to);
        self.line(vec![(x, from), (x, to)], color, 3)?;
        self.word((x, to), -0.045 - 0.075 * above as f64, word, color)
    }
}

fn letters(color: &Color) -> TextStyle<'static> {
    let rgb: RGBColor = color.rgb();
    ("sans-serif", LETTERS).into_font().color(&rgb)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
