//! Bars, drawn as SVG.

use anyhow::{Context, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Bars with one unit, the first on top.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Chart {
    /// What it shows, the unit, and which end is the better one.
    pub(in crate::bench) title: String,
    pub(in crate::bench) bars: Vec<Bar>,
}

/// One figure.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Bar {
    pub(in crate::bench) label: String,
    pub(in crate::bench) value: f64,
    /// The least and the most of all runs.
    pub(in crate::bench) spread: (f64, f64),
    /// The goal of the design, where it names one.
    pub(in crate::bench) goal: Option<f64>,
}

const WIDTH: u32 = 860;
const BAR: u32 = 22;
const ABOVE: u32 = 34;
const BELOW: u32 = 30;
const LABELS: u32 = 300;
/// Sluice, and what it is compared with.
const OWN: RGBColor = RGBColor(31, 119, 180);
const OTHER: RGBColor = RGBColor(150, 158, 166);
const GOAL: RGBColor = RGBColor(214, 39, 40);

impl Chart {
    /// The SVG element.
    pub(in crate::bench) fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        self.draw(&mut svg).map_err(|error| anyhow::anyhow!("{error}")).context("cannot draw a plot")?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let bars: Vec<_> = self.bars.iter().filter(|bar| bar.value.is_finite()).collect();
        let ends = bars.iter().flat_map(|bar| [bar.value, bar.spread.1, bar.goal.unwrap_or(0.0)]);
        // Room for the figure behind the bar.
        let most = ends.filter(|end| end.is_finite()).fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.12;
        let rows = bars.len() as u32;
        let root = SVGBackend::with_string(svg, (WIDTH, ABOVE + rows * BAR + BELOW)).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 15))
            .set_label_area_size(LabelAreaPosition::Left, LABELS)
            .set_label_area_size(LabelAreaPosition::Bottom, BELOW)
            .margin_right(16)
            .build_cartesian_2d(0.0..most, f64::from(rows)..0.0)?;
        let text = |side| ("sans-serif", 12).into_font().color(&BLACK).pos(Pos::new(side, VPos::Center));
        chart.configure_mesh().disable_y_mesh().y_labels(0).light_line_style(WHITE).draw()?;
        for (row, bar) in bars.iter().enumerate() {
            let middle = row as f64 + 0.5;
            let colour = if bar.label.contains("Sluice") || !self.compares() { OWN } else { OTHER };
            let body = Rectangle::new([(0.0, middle - 0.34), (bar.value, middle + 0.34)], colour.filled());
            let whisker = PathElement::new([(bar.spread.0, middle), (bar.spread.1, middle)], BLACK);
            chart.draw_series([body.into_dyn(), whisker.into_dyn()])?;
            let figure = Text::new(super::show(bar.value), (5, 0), text(HPos::Left));
            let end = bar.value.max(bar.spread.1).max(bar.goal.unwrap_or_default());
            chart.draw_series([EmptyElement::at((end, middle)) + figure])?;
            let name = Text::new(bar.label.clone(), (-6, 0), text(HPos::Right));
            chart.draw_series([EmptyElement::at((0.0, middle)) + name])?;
            if let Some(goal) = bar.goal {
                let line = [(goal, middle - 0.45), (goal, middle + 0.45)];
                chart.draw_series([PathElement::new(line, GOAL.stroke_width(3))])?;
            }
        }
        root.present()?;
        Ok(())
    }

    /// Whether others are among the bars.
    fn compares(&self) -> bool {
        self.bars.iter().any(|bar| bar.label.contains("Sluice"))
    }
}
