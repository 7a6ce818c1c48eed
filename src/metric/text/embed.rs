//! One vector for each text: the last hidden state of a language model, as MAUVE takes it.

use tch::{Device, Tensor};

use crate::error::{Error, Result};
use crate::net::Cond;
use crate::net::causal::Causal;

/// The output of the last layer, after the final norm, at the last token of each of `texts`, `[N, D]`.
///
/// # Errors
/// A usage error where the network keeps no hidden states, a data error where a text has no token, or where the
/// network fails.
pub fn last_hidden(
    net: &dyn Causal,
    texts: &[Vec<i64>],
    batch: usize,
    device: Device,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Tensor> {
    let _no_grad = tch::no_grad_guard();
    if let Some(i) = texts.iter().position(Vec::is_empty) {
        return Err(Error::data(format!("text {i} is empty")).why("it has no last token"));
    }
    // Texts of about one length are computed together; the order comes back at the end.
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&i| texts[i].len());
    let mut rows = Vec::with_capacity(texts.len());
    for chunk in order.chunks(batch.max(1)) {
        let longest = chunk.iter().map(|&i| texts[i].len()).max().unwrap_or(0);
        let pads: Vec<i64> = chunk.iter().map(|&i| (longest - texts[i].len()) as i64).collect();
        let filled: Vec<i64> = chunk
            .iter()
            .flat_map(|&i| std::iter::repeat_n(0, longest - texts[i].len()).chain(texts[i].iter().copied()))
            .collect();
        let tokens = Tensor::f_from_slice(&filled)?.f_view([chunk.len() as i64, longest as i64])?;
        let mut state = net.begin(chunk.len() as i64, &Cond::default())?;
        let cache = state.cache().ok_or_else(no_states)?;
        let _ = cache.prefill_padded(&tokens.f_to_device(device)?, &pads)?;
        let hidden = cache.hidden().ok_or_else(no_states)?;
        rows.push(hidden.f_select(1, -1)?.f_to_device(Device::Cpu)?);
        progress(rows.iter().map(|r| r.size()[0] as usize).sum(), texts.len())?;
    }
    let mut back = vec![0i64; texts.len()];
    for (place, &i) in order.iter().enumerate() {
        back[i] = place as i64;
    }
    Ok(Tensor::f_cat(&rows, 0)?.f_index_select(0, &Tensor::f_from_slice(&back)?)?)
}

fn no_states() -> Error {
    Error::usage("the model has no hidden states").why("features of texts are those of a transformer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Mode;
    use crate::net::lm::{Lm, LmConfig};
    use crate::net::store::Store;
    use tch::Kind;

    #[test]
    fn batches_and_padding_change_nothing() {
        let config = LmConfig { vocab: 9, context: 16, width: 8, depth: 2, heads: 2, ..LmConfig::default() };
        let store = Store::new(Device::Cpu, Kind::Float, 1);
        let net = Lm::new(&store.root(), &config, 16).unwrap();
        let texts: Vec<Vec<i64>> = vec![vec![1, 2, 3, 4, 5], vec![6], vec![7, 8, 0], vec![2; 16]];
        let got = last_hidden(&net, &texts, 3, Device::Cpu, &mut |_, _| Ok(())).unwrap();
        assert_eq!(got.size(), [4, 8]);
        let _no_grad = tch::no_grad_guard();
        for (i, text) in texts.iter().enumerate() {
            let all = net.hidden(&Tensor::from_slice(text).unsqueeze(0), Mode::Eval).unwrap();
            let gap = (all.select(1, -1).squeeze() - got.get(i as i64)).abs().max().double_value(&[]);
            assert!(gap < 1e-5, "{i}: {gap}");
        }
        let empty = last_hidden(&net, &[vec![]], 1, Device::Cpu, &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(empty.kind().exit_code(), 3);
    }
}
