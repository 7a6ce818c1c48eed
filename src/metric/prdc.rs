//! Precision and recall (Kynkaanniemi et al. 2019, "Improved precision and recall metric"), density and coverage
//! (Naeem et al. 2020, "Reliable fidelity and diversity metrics"), authenticity (Alaa et al. 2022).
//!
//! With `r_i`, `g_j` the distances to the k-th nearest other member of the own set and `D_ij = |R_i - G_j|`:
//! precision = mean_j [exists i: D_ij <= r_i], recall = mean_i [exists j: D_ij <= g_j],
//! density = (1/k) mean_j sum_i [D_ij < r_i], coverage = mean_i [min_j D_ij < r_i].
//! All comparisons are of squares; the two families may use different k.

use tch::{Device, Kind, Tensor};

use super::distance::{BLOCK, block, blocks, nearest_others, rows, same_width, squared};
use crate::error::Result;
use crate::io::bytes::tensor_to_f64;

/// Neighbours and block size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrdcOptions {
    /// k of precision and recall (3 in the literature of GANs and diffusion models).
    pub pr_k: usize,
    /// k of density and coverage (5 in PRDC).
    pub dc_k: usize,
    /// Whether a point on the edge of a neighbourhood is outside it for precision and recall, too (PRDC and
    /// dgm-eval compare by `<`, the others by `<=`).
    pub strict: bool,
    /// Rows in a block; bounds memory.
    pub block: usize,
}

impl Default for PrdcOptions {
    fn default() -> Self {
        PrdcOptions { pr_k: 3, dc_k: 5, strict: false, block: BLOCK }
    }
}

/// The five figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prdc {
    /// Share of generated images inside the real manifold.
    pub precision: f64,
    /// Share of real images inside the generated manifold.
    pub recall: f64,
    /// Average number of real neighbourhoods a generated image lies in, over k; may exceed 1.
    pub density: f64,
    /// Share of real images with a generated one in their neighbourhood.
    pub coverage: f64,
    /// Per cent of generated images that are farther from their closest real image than that one is from its
    /// own closest real neighbour; low values mean copying.
    pub auth_pct: f64,
}

/// What the five figures are means of: one number per image, f64 on the CPU.
#[derive(Debug)]
pub struct Items {
    /// Per generated image: inside the real manifold (0 or 1).
    pub precise: Vec<f64>,
    /// Per generated image: real neighbourhoods it lies in, over k.
    pub density: Vec<f64>,
    /// Per generated image: authentic (0 or 1).
    pub authentic: Vec<f64>,
    /// Per real image: inside the generated manifold (0 or 1).
    pub recalled: Vec<f64>,
    /// Per real image: a generated one in its neighbourhood (0 or 1).
    pub covered: Vec<f64>,
}

#[allow(clippy::cast_precision_loss)]
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

impl Items {
    /// The five figures.
    #[must_use]
    pub fn figures(&self) -> Prdc {
        Prdc {
            precision: mean(&self.precise),
            recall: mean(&self.recalled),
            density: mean(&self.density),
            coverage: mean(&self.covered),
            auth_pct: 100.0 * mean(&self.authentic),
        }
    }
}

/// Precision, recall, density, coverage and authenticity of `generated` `[m, d]` against `real` `[n, d]`.
///
/// # Errors
/// Where widths differ, or a set has not more than k rows.
pub fn prdc(real: &Tensor, generated: &Tensor, options: &PrdcOptions) -> Result<Prdc> {
    Ok(items(real, generated, options)?.figures())
}

/// The numbers per image behind [`prdc`].
///
/// # Errors
/// Where widths differ, or a set has not more than k rows.
#[allow(clippy::cast_precision_loss)]
pub fn items(real: &Tensor, generated: &Tensor, options: &PrdcOptions) -> Result<Items> {
    same_width(real, generated)?;
    let (n, m) = (rows(real)?.0, rows(generated)?.0);
    let device = real.device();
    let k_real = options.pr_k.max(options.dc_k);
    let near_real = nearest_others(real, k_real, options.block)?;
    let near_fake = nearest_others(generated, options.pr_k, options.block)?;
    let radius = |near: &Tensor, k: usize| -> Result<Tensor> {
        Ok(near.f_select(1, k as i64 - 1)?.f_contiguous()?.f_to_device(device)?)
    };
    let (r_pr, r_dc, r_1) =
        (radius(&near_real, options.pr_k)?, radius(&near_real, options.dc_k)?, radius(&near_real, 1)?);
    let g_pr = radius(&near_fake, options.pr_k)?;
    let within = |d: &Tensor, r: &Tensor| if options.strict { d.f_lt_tensor(r) } else { d.f_le_tensor(r) };

    let mut recalled = Vec::new();
    let mut covered = Vec::new();
    let columns: Vec<(usize, usize)> = blocks(m, options.block).collect();
    let fresh = |width: usize, value: f64| Tensor::f_full([width as i64], value, (Kind::Double, device));
    // Per block of generated images: inside the real manifold, neighbourhoods counted, closest real image.
    let mut inside = Vec::new();
    for &(_, width) in &columns {
        inside.push((
            Tensor::f_zeros([width as i64], (Kind::Bool, device))?,
            Tensor::f_zeros([width as i64], (Kind::Int64, device))?,
            fresh(width, f64::INFINITY)?,
            fresh(width, 0.0)?,
        ));
    }
    for (i, height) in blocks(n, options.block) {
        let u = block(real, i, height)?;
        let part = |r: &Tensor| r.f_narrow(0, i as i64, height as i64)?.f_unsqueeze(1);
        let (r_pr, r_dc, r_1) = (part(&r_pr)?, part(&r_dc)?, part(&r_1)?);
        let mut hit = Tensor::f_zeros([height as i64], (Kind::Bool, device))?;
        let mut closest = fresh(height, f64::INFINITY)?;
        for (&(j, width), state) in columns.iter().zip(&mut inside) {
            let d = squared(&u, &block(generated, j, width)?)?;
            let g = g_pr.f_narrow(0, j as i64, width as i64)?.f_unsqueeze(0)?;
            hit = hit.f_logical_or(&within(&d, &g)?.f_any_dim(1, false)?)?;
            closest = closest.f_minimum(&d.f_amin(1i64, false)?)?;
            state.0 = state.0.f_logical_or(&within(&d, &r_pr)?.f_any_dim(0, false)?)?;
            state.1 = state.1.f_add(&d.f_lt_tensor(&r_dc)?.f_sum_dim_intlist(0i64, false, Kind::Int64)?)?;
            let (best, row) = d.f_min_dim(0, false)?;
            let better = best.f_lt_tensor(&state.2)?;
            let own = r_1.f_squeeze_dim(1)?.f_index_select(0, &row)?;
            state.3 = own.f_where_self(&better, &state.3)?;
            state.2 = best.f_minimum(&state.2)?;
        }
        covered.push(closest.f_unsqueeze(1)?.f_lt_tensor(&r_dc)?.f_squeeze_dim(1)?);
        recalled.push(hit);
    }
    let host = |parts: &[Tensor]| -> Result<Vec<f64>> {
        tensor_to_f64(&Tensor::f_cat(parts, 0)?.f_to_device(Device::Cpu)?)
    };
    let mut columns: [Vec<Tensor>; 3] = Default::default();
    for (hit, count, closest, own) in inside {
        columns[2].push(own.f_lt_tensor(&closest)?);
        columns[1].push(count);
        columns[0].push(hit);
    }
    let k = options.dc_k as f64;
    Ok(Items {
        precise: host(&columns[0])?,
        density: host(&columns[1])?.into_iter().map(|count| count / k).collect(),
        authentic: host(&columns[2])?,
        recalled: host(&recalled)?,
        covered: host(&covered)?,
    })
}
