//! Statistics of parts of a set put together to those of the whole.

use tch::Tensor;

use super::frechet::Gaussian;
use super::stats_file::{Origin, Stats};
use crate::error::{Error, Result};

/// The Gaussian of both sets together (Chan et al. 1979): with `n = n1 + n2`, `d = mu2 - mu1`,
/// `mu = mu1 + d n2/n` and `S = ((n1 - 1) S1 + (n2 - 1) S2 + d d^T n1 n2/n) / (n - 1)`.
///
/// # Errors
/// Where a number of images is not known, or dimensions differ.
#[allow(clippy::cast_precision_loss)]
pub fn gaussians(a: &Gaussian, b: &Gaussian) -> Result<Gaussian> {
    super::frechet::same_dim(a.dim(), b.dim())?;
    let (Some(n1), Some(n2)) = (a.n, b.n) else {
        return Err(Error::data("a part does not say how many images it is of")
            .hint("only files of `gen ref-stats` that are not .npz can be merged"));
    };
    let (n1, n2) = (n1 as f64, n2 as f64);
    let n = n1 + n2;
    let d = b.mean.f_sub(&a.mean)?;
    let mean = a.mean.f_add(&d.f_mul_scalar(n2 / n)?)?;
    let cov = a.cov.f_mul_scalar(n1 - 1.0)?.f_add(&b.cov.f_mul_scalar(n2 - 1.0)?)?;
    let cov = cov.f_add(&d.f_outer(&d)?.f_mul_scalar(n1 * n2 / n)?)?.f_div_scalar(n - 1.0)?;
    Ok(Gaussian { n: Some(a.n.unwrap_or(0) + b.n.unwrap_or(0)), mean, cov })
}

/// What must be equal in all parts.
fn makes(origin: &Origin) -> [Option<String>; 4] {
    [
        origin.extractor.clone(),
        origin.weights_sha256.clone(),
        origin.protocol.map(|p| p.to_string()),
        origin.resize.clone(),
    ]
}

/// The statistics of all parts together. Spatial statistics and features are kept where all parts have them.
///
/// # Errors
/// Where there is no part, parts were made in different ways, or one does not say of how many images it is.
pub fn merge(parts: Vec<Stats>) -> Result<Stats> {
    let mut parts = parts.into_iter();
    let Some(mut whole) = parts.next() else { return Err(Error::usage("nothing to merge")) };
    let source = |origin: &Origin| origin.list_sha256.clone();
    let mut lists = vec![source(&whole.origin)];
    for part in parts {
        for ((a, b), what) in makes(&whole.origin).iter().zip(makes(&part.origin)).zip([
            "extractors",
            "weight files",
            "protocols",
            "resizings",
        ]) {
            if *a != b {
                let name = |v: &Option<String>| v.clone().unwrap_or_else(|| "unknown".to_owned());
                return Err(Error::data(format!("the parts have different {what}")).why(format!(
                    "`{}` and `{}`",
                    name(a),
                    name(&b)
                )));
            }
        }
        lists.push(source(&part.origin));
        if lists[..lists.len() - 1].contains(&source(&part.origin)) && part.origin.list_sha256.is_some() {
            return Err(Error::data("two parts are of the same images")
                .hint("each part is one of `gen ref-stats --shard 0/n`, `1/n`, ..."));
        }
        whole.gaussian = gaussians(&whole.gaussian, &part.gaussian)?;
        whole.spatial = match (&whole.spatial, &part.spatial) {
            (Some(a), Some(b)) => Some(gaussians(a, b)?),
            _ => None,
        };
        whole.features = match (&whole.features, &part.features) {
            (Some(a), Some(b)) => Some(Tensor::f_cat(&[a, b], 0)?),
            _ => None,
        };
        whole.notes.extend(part.notes);
    }
    whole.origin.n = whole.gaussian.n;
    if lists.len() > 1 {
        use sha2::{Digest, Sha256};
        let text: Vec<String> = lists.into_iter().flatten().collect();
        whole.origin.list_sha256 =
            Some(super::inception_weights::hex(&Sha256::digest(text.join("\n").as_bytes())));
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::shim::Generator;
    use tch::Kind;

    fn part(x: &Tensor, list: &str) -> Stats {
        let origin =
            Origin { extractor: Some("pixel8".into()), list_sha256: Some(list.into()), ..Origin::default() };
        Stats {
            gaussian: Gaussian::fit(x).unwrap(),
            spatial: None,
            features: Some(x.shallow_clone()),
            origin,
            notes: vec![],
        }
    }

    #[test]
    fn parts_make_the_whole() {
        let x = Generator::new(4).unwrap().normal(&[31, 5], Kind::Double).unwrap() + 7.0;
        let rows = |a: i64, n: i64| x.narrow(0, a, n);
        let merged =
            merge(vec![part(&rows(0, 2), "a"), part(&rows(2, 18), "b"), part(&rows(20, 11), "c")]).unwrap();
        let whole = Gaussian::fit(&x).unwrap();
        assert_eq!(merged.gaussian.n, Some(31));
        assert!((merged.gaussian.mean - whole.mean).abs().max().double_value(&[]) < 1e-13);
        assert!((merged.gaussian.cov - whole.cov).abs().max().double_value(&[]) < 1e-13);
        assert!(merged.features.unwrap().equal(&x));
    }

    #[test]
    fn parts_of_different_make_are_refused() {
        let x = Generator::new(4).unwrap().normal(&[9, 3], Kind::Double).unwrap();
        let mut other = part(&x, "b");
        other.origin.extractor = Some("digits".into());
        assert!(merge(vec![part(&x, "a"), other]).unwrap_err().to_string().contains("different extractors"));
        assert!(merge(vec![part(&x, "a"), part(&x, "a")]).unwrap_err().to_string().contains("same images"));
        let mut unknown = part(&x, "b");
        unknown.gaussian.n = None;
        assert!(merge(vec![part(&x, "a"), unknown]).is_err());
        assert!(merge(vec![]).is_err());
    }
}
