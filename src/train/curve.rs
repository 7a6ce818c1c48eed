//! The loss curve as a picture.

use std::path::Path;

use plotters::prelude::*;

use crate::error::{Error, Result};

/// Draws the loss over optimiser steps, and that on held-out data, to an SVG file, on logarithmic axes where that is possible.
///
/// # Errors
/// Where there are fewer than two points, or the file cannot be written.
pub fn draw(points: &[(u64, f64)], held_out: &[(u64, f64)], path: &Path) -> Result<()> {
    let svg = render(points, held_out)?;
    std::fs::write(path, svg).map_err(|e| Error::write(path, &e))
}

fn finite(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    points.iter().filter(|(_, loss)| loss.is_finite()).map(|(step, loss)| (*step as f64, *loss)).collect()
}

fn render(points: &[(u64, f64)], held_out: &[(u64, f64)]) -> Result<String> {
    let (points, held_out) = (finite(points), finite(held_out));
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return Err(Error::run("no loss to draw"));
    };
    let low = points.iter().chain(&held_out).map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = points.iter().chain(&held_out).map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let x = first.0..last.0.max(first.0 + 1.0);
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (720, 420)).into_drawing_area();
        let drawn = if low > 0.0 {
            chart(&area, x, (low * 0.9..high * 1.1).log_scale(), &points, &held_out)
        } else {
            let pad = (high - low).max(1e-12) * 0.05;
            chart(&area, x, low - pad..high + pad, &points, &held_out)
        };
        drawn
            .and_then(|()| area.present().map_err(|e| e.to_string()))
            .map_err(|why| Error::run("cannot draw the loss curve").why(why))?;
    }
    Ok(text)
}

fn chart<Y>(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    x: std::ops::Range<f64>,
    y: Y,
    points: &[(f64, f64)],
    held_out: &[(f64, f64)],
) -> std::result::Result<(), String>
where
    Y: plotters::coord::ranged1d::AsRangedCoord<Value = f64>,
    Y::CoordDescType: plotters::coord::ranged1d::ValueFormatter<f64>,
{
    let text = |e: DrawingAreaErrorKind<_>| -> String {
        let e: DrawingAreaErrorKind<std::io::Error> = e;
        e.to_string()
    };
    area.fill(&WHITE).map_err(text)?;
    let mut chart = ChartBuilder::on(area)
        .caption(
            if held_out.is_empty() { "training loss" } else { "training loss (blue), held-out loss (red)" },
            ("sans-serif", 18),
        )
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)
        .map_err(text)?;
    chart
        .configure_mesh()
        .x_desc("optimiser step")
        .y_desc("loss")
        .x_label_formatter(&|step| format!("{step:.0}"))
        .y_label_formatter(&|loss| format!("{loss:.3}"))
        .light_line_style(WHITE)
        .draw()
        .map_err(text)?;
    let raw = RGBColor(150, 180, 220);
    chart.draw_series(LineSeries::new(points.iter().copied(), &raw)).map_err(text)?;
    let strong = RGBColor(20, 70, 150).stroke_width(2);
    chart.draw_series(LineSeries::new(smooth(points), strong)).map_err(text)?;
    if !held_out.is_empty() {
        let red = RGBColor(200, 60, 40).stroke_width(2);
        chart.draw_series(LineSeries::new(held_out.iter().copied(), red)).map_err(text)?;
    }
    Ok(())
}

/// Exponential mean over about a twentieth of the curve, corrected for its start.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let decay = 1.0 - 1.0 / (points.len() as f64 / 20.0).max(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|(x, y)| {
            sum = decay * sum + (1.0 - decay) * y;
            weight = decay * weight + (1.0 - decay);
            (*x, sum / weight)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_an_svg_with_labels() {
        let points: Vec<(u64, f64)> = (0..100).map(|i| (i * 10, 1.0 / (1.0 + i as f64))).collect();
        let svg = render(&points, &[(5, 1.5), (9, 1.2)]).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("optimiser step") && svg.contains("polyline"));
    }

    #[test]
    fn negative_losses_and_gaps_draw_too() {
        assert!(render(&[(0, -1.0), (1, f64::NAN), (2, 1.0)], &[]).is_ok());
        assert!(render(&[(0, f64::NAN)], &[]).is_err());
    }

    #[test]
    fn smoothing_keeps_a_constant() {
        assert!(smooth(&[(0.0, 2.0), (1.0, 2.0), (2.0, 2.0)]).iter().all(|p| (p.1 - 2.0).abs() < 1e-12));
    }
}
