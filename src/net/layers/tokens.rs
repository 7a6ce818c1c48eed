//! How tokens enter an autoregressive network of sound: an embedding, and what the class adds to every position.

use tch::{Kind, Tensor};

use super::embed::checked_class;
use super::init::Init;
use crate::error::{Error, Result};
use crate::net::Cond;
use crate::net::store::Path;

/// Embeddings of tokens `[V, H]` (`0.weight`) and of classes `[K, H]` (`class.weight`, where there are any).
#[derive(Debug)]
pub struct TokenEmbedding {
    weight: Tensor,
    class: Option<Tensor>,
    classes: i64,
}

impl TokenEmbedding {
    /// Of `vocab` tokens and `classes` classes in `width` features, with the first values of `torch.nn.Embedding`.
    ///
    /// # Errors
    /// Where a name is taken, or libtorch fails.
    pub fn new(p: &Path, vocab: i64, width: i64, classes: i64) -> Result<Self> {
        let table = |name: &str, rows: i64| (p / name).param("weight", &[rows, width], Init::Normal(1.0));
        let weight = table("0", vocab)?;
        let class = (classes > 0).then(|| table("class", classes)).transpose()?;
        Ok(TokenEmbedding { weight, class, classes })
    }

    /// Rows of the tokens, `[V, H]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Number of classes.
    #[must_use]
    pub fn classes(&self) -> i64 {
        self.classes
    }

    /// What the class adds to every position, `[B, H]`; none without classes, 0 for class -1.
    ///
    /// # Errors
    /// Where there are no sequences, or classes do not fit.
    pub fn class_rows(&self, cond: &Cond, batch: i64) -> Result<Option<Tensor>> {
        if batch < 1 {
            return Err(Error::run(format!("a batch of {batch} sequences")));
        }
        let class = checked_class(cond.class.as_ref(), self.classes, batch)?;
        let (Some(table), Some(class)) = (&self.class, class) else { return Ok(None) };
        let rows = table.f_index_select(0, &class.f_clamp_min(0)?)?;
        Ok(Some(rows.f_masked_fill(&class.f_lt(0)?.f_unsqueeze(1)?, 0.0)?))
    }

    /// `tokens` `[B, L]` with `class_rows` `[B, H]` at every position, `[B, L, H]`.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn forward(&self, tokens: &Tensor, class_rows: Option<&Tensor>) -> Result<Tensor> {
        let x = Tensor::f_embedding(&self.weight, tokens, -1, false, false)?;
        Ok(match class_rows {
            Some(rows) => x.f_add(&rows.f_unsqueeze(1)?)?,
            None => x,
        })
    }
}

/// `tokens` checked to be i64 `[B, L]`, L a multiple of `stride`; `[B, 1, L]` is taken as well.
///
/// # Errors
/// Where they are not.
pub fn sequences(tokens: &Tensor, stride: i64) -> Result<Tensor> {
    let size = tokens.size();
    let flat = match size[..] {
        [_, _] => tokens.shallow_clone(),
        [_, 1, _] => tokens.f_squeeze_dim(1)?,
        _ => return Err(wrong(tokens)),
    };
    let len = flat.size()[1];
    if flat.kind() != Kind::Int64 || len < 1 || size[0] < 1 {
        return Err(wrong(tokens));
    }
    if len % stride != 0 {
        return Err(wrong(tokens).why(format!("{len} is no multiple of {stride}")));
    }
    Ok(flat)
}

/// Checks that `tokens` are what a recurrence of `batch` sequences takes: i64 `[B]` (`dims` 1) or `[B, L]` (2).
///
/// # Errors
/// Where they are not.
pub fn check_steps(tokens: &Tensor, batch: i64, dims: usize) -> Result<()> {
    let size = tokens.size();
    if tokens.kind() == Kind::Int64 && size.len() == dims && size[0] == batch && !size.contains(&0) {
        return Ok(());
    }
    Err(wrong(tokens).why(format!("the recurrence is one of {batch} sequences")))
}

fn wrong(tokens: &Tensor) -> Error {
    Error::run(format!("tokens of shape {:?} and dtype {:?}", tokens.size(), tokens.kind()))
        .hint("the network takes i64 tokens [batch, length]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::store::Store;
    use tch::Device;

    #[test]
    fn classes_add_to_every_position_and_none_adds_nothing() {
        let store = Store::new(Device::Cpu, Kind::Double, 1);
        let embedding = TokenEmbedding::new(&store.root(), 5, 3, 2).unwrap();
        let tokens = Tensor::from_slice(&[0i64, 4, 1, 1]).reshape([2, 2]);
        let cond = Cond { class: Some(Tensor::from_slice(&[1i64, -1])), ..Cond::default() };
        let rows = embedding.class_rows(&cond, 2).unwrap();
        let x = embedding.forward(&tokens, rows.as_ref()).unwrap();
        let plain = embedding.forward(&tokens, None).unwrap();
        let class = store.get("class.weight").unwrap();
        assert_eq!(x.size(), [2, 2, 3]);
        assert!((x.get(0) - plain.get(0)).allclose(&class.get(1).expand([2, 3], false), 1e-12, 1e-12, false));
        assert!(x.get(1).equal(&plain.get(1)));
        assert!(
            embedding.class_rows(&cond, 3).is_err() && embedding.class_rows(&Cond::default(), 0).is_err()
        );
    }

    #[test]
    fn shapes_are_checked() {
        let tokens = |size: &[i64]| Tensor::zeros(size, (Kind::Int64, Device::Cpu));
        assert_eq!(sequences(&tokens(&[2, 1, 8]), 4).unwrap().size(), [2, 8]);
        assert!(sequences(&tokens(&[2, 6]), 4).unwrap_err().to_string().contains("6 is no multiple of 4"));
        for bad in [&[8][..], &[2, 2, 8], &[2, 0], &[0, 8]] {
            assert!(sequences(&tokens(bad), 1).is_err(), "{bad:?}");
        }
        assert!(sequences(&tokens(&[2, 8]).to_kind(Kind::Float), 1).is_err());
        assert!(check_steps(&tokens(&[3]), 3, 1).is_ok() && check_steps(&tokens(&[3, 4]), 3, 2).is_ok());
        assert!(check_steps(&tokens(&[3]), 2, 1).is_err() && check_steps(&tokens(&[3]), 3, 2).is_err());
    }
}
