//! What a run writes down as it goes: `log.jsonl`, TensorBoard events and the loss curve.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::curve;
use super::folder::RunFolder;
use crate::error::{Error, Result};
use crate::io::picture::Picture;
use crate::io::tfevents::EventWriter;

/// One log line's numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Record {
    /// Optimiser steps done.
    pub step: u64,
    /// Images seen.
    pub images: u64,
    /// Mean loss since the last line.
    pub loss: f64,
    /// Mean gradient norm since the last line.
    pub grad_norm: f64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Images a second since the last line; not part of what a resumed run repeats.
    pub images_per_s: f64,
    /// Seconds spent training, over all sittings.
    pub seconds: f64,
}

/// The log of one sitting.
#[derive(Debug)]
pub struct Log {
    folder: RunFolder,
    file: File,
    events: EventWriter,
    points: Vec<(u64, f64)>,
    held_out: Vec<(u64, f64)>,
}

impl Log {
    /// Opens the log of a run that stands at `step`; what a killed sitting logged after that is dropped.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn open(folder: &RunFolder, step: u64) -> Result<Self> {
        folder.rewind_log(step)?;
        let path = folder.log();
        let file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(|e| Error::write(&path, &e))?;
        let events = EventWriter::create(folder.root())?;
        Ok(Log {
            folder: folder.clone(),
            file,
            events,
            points: folder.logged("loss"),
            held_out: folder.logged("val_loss"),
        })
    }

    /// Writes a record everywhere. `parts` are further losses by name (accuracy, ...).
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&mut self, record: &Record, parts: &[(&str, f64)]) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let mut line = json!({
            "step": record.step, "images": record.images, "loss": record.loss, "grad_norm": record.grad_norm,
            "lr": record.lr, "images_per_s": round(record.images_per_s), "seconds": round(record.seconds),
            "timestamp": round(now),
        });
        for (name, value) in parts {
            line[name] = json!(value);
        }
        self.append(&line)?;
        let mut scalars = vec![
            ("loss", record.loss),
            ("grad_norm", record.grad_norm),
            ("lr", record.lr),
            ("images_per_s", record.images_per_s),
        ];
        scalars.extend(parts.iter().copied());
        self.events.scalars(record.step, &scalars)?;
        self.events.flush()?;
        self.points.push((record.step, record.loss));
        Ok(())
    }

    /// Writes what was measured on held-out data after `step`.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn validation(&mut self, step: u64, values: &BTreeMap<String, f64>) -> Result<()> {
        let mut line = json!({"step": step});
        for (name, value) in values {
            line[name] = json!(value);
        }
        self.append(&line)?;
        let scalars: Vec<(&str, f64)> = values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        self.events.scalars(step, &scalars)?;
        self.events.flush()?;
        self.held_out.extend(values.get("val_loss").map(|loss| (step, *loss)));
        Ok(())
    }

    /// Writes a sample grid to the TensorBoard events.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn image(&mut self, step: u64, picture: &Picture) -> Result<()> {
        self.events.image(step, "samples", picture)?;
        self.events.flush()
    }

    /// Draws the loss curve so far.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn draw(&self) -> Result<()> {
        if self.points.len() < 2 {
            Ok(())
        } else {
            curve::draw(&self.points, &self.held_out, &self.folder.curve())
        }
    }

    fn append(&mut self, line: &Value) -> Result<()> {
        // One write for one line: a killed run leaves whole lines.
        let text = format!("{line}\n");
        self.file.write_all(text.as_bytes()).map_err(|e| Error::write(&self.folder.log(), &e))
    }
}

fn round(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}
