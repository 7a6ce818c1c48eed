//! Running sums of what a log line shows, kept on the device so that no step waits for the host.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// Sums by name.
#[derive(Debug)]
pub struct Sums {
    device: Device,
    sums: BTreeMap<String, Tensor>,
    terms: u64,
}

impl Sums {
    /// The sums of an interrupted interval.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn resume(sums: &BTreeMap<String, f64>, terms: u64, device: Device) -> Result<Self> {
        let tensor = |value: f64| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(&[value])?.f_reshape([0i64; 0])?.f_to_device(device)?)
        };
        let sums =
            sums.iter().map(|(name, value)| Ok((name.clone(), tensor(*value)?))).collect::<Result<_>>()?;
        Ok(Sums { device, sums, terms })
    }

    /// Adds `value`, a tensor with one element.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn add(&mut self, name: &str, value: &Tensor) -> Result<()> {
        let value = value.f_detach()?.f_to_kind(Kind::Double)?.f_reshape([0i64; 0])?;
        match self.sums.get_mut(name) {
            Some(sum) => {
                let _ = sum.f_add_(&value)?;
            }
            None => {
                // A sum of its own: `to_kind` of an f64 value is the value itself.
                let zero = Tensor::f_zeros([0i64; 0], (Kind::Double, self.device))?;
                self.sums.insert(name.to_owned(), zero.f_add(&value)?);
            }
        }
        Ok(())
    }

    /// Ends a step.
    pub fn next(&mut self) {
        self.terms += 1;
    }

    /// The sums so far and the number of their terms, read from the device.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn read(&self) -> Result<(BTreeMap<String, f64>, u64)> {
        let read = |t: &Tensor| -> Result<f64> { Ok(t.f_double_value(&[])?) };
        let sums =
            self.sums.iter().map(|(name, sum)| Ok((name.clone(), read(sum)?))).collect::<Result<_>>()?;
        Ok((sums, self.terms))
    }

    /// The means, and starts again.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn take(&mut self) -> Result<BTreeMap<String, f64>> {
        let (sums, terms) = self.read()?;
        self.sums.clear();
        self.terms = 0;
        Ok(sums.into_iter().map(|(name, sum)| (name, sum / terms.max(1) as f64)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_interval_gives_the_same_mean() {
        let values = [0.1f32, 0.7, 1e-3, 5.0];
        let mut whole = Sums::resume(&BTreeMap::new(), 0, Device::Cpu).unwrap();
        let mut broken = Sums::resume(&BTreeMap::new(), 0, Device::Cpu).unwrap();
        for (i, value) in values.iter().enumerate() {
            if i == 2 {
                let (sums, terms) = broken.read().unwrap();
                broken = Sums::resume(&sums, terms, Device::Cpu).unwrap();
            }
            for sums in [&mut whole, &mut broken] {
                sums.add("loss", &Tensor::from(*value)).unwrap();
                sums.next();
            }
        }
        let (a, b) = (whole.take().unwrap(), broken.take().unwrap());
        assert_eq!(a["loss"].to_bits(), b["loss"].to_bits());
        assert!((a["loss"] - 5.801 / 4.0).abs() < 1e-6);
        assert!(whole.take().unwrap().is_empty());
    }
}
