//! Which samples to draw: the seed list of EDM's `generate.py`, and its split over processes.

use std::fmt;
use std::str::FromStr;

/// Seeds in order, such as `0-63` or `1,2,5-10`; duplicates stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds(pub Vec<u64>);

/// More than this many seeds are a typing error.
const LIMIT: u64 = 100_000_000;

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut seeds = Vec::new();
        for part in text.split(',') {
            let number = |text: &str| {
                text.trim().parse::<u64>().map_err(|_| {
                    format!("`{part}` is neither a seed nor a range of seeds; write 0-63 or 1,2,5-10")
                })
            };
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if last < first {
                return Err(format!("`{part}` runs backwards; write the smaller seed first"));
            }
            if last - first >= LIMIT || seeds.len() as u64 + (last - first) >= LIMIT {
                return Err(format!("more than {LIMIT} seeds"));
            }
            seeds.extend(first..=last);
        }
        Ok(Seeds(seeds))
    }
}

impl fmt::Display for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut comma = "";
        while let Some(&first) = rest.first() {
            let run = rest.iter().enumerate().take_while(|(i, seed)| **seed == first + *i as u64).count();
            match run {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", rest[run - 1])?,
            }
            comma = ",";
            rest = &rest[run..];
        }
        Ok(())
    }
}

/// The part `index` of `count` equal ones (`--shard i/n`): every n-th seed, from the i-th on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Which part, from 0.
    pub index: u64,
    /// How many parts.
    pub count: u64,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed =
            text.split_once('/').and_then(|(i, n)| Some((i.trim().parse().ok()?, n.trim().parse().ok()?)));
        match parsed {
            Some((index, count)) if index < count => Ok(Shard { index, count }),
            Some((_, 0)) => Err("there must be at least one part".to_owned()),
            Some((index, count)) => {
                Err(format!("part {index} of {count}; parts count from 0, so the last is {}", count - 1))
            }
            None => Err("expected i/n, such as 0/4".to_owned()),
        }
    }
}

impl Shard {
    /// The seeds of this part.
    #[must_use]
    pub fn of(self, seeds: &Seeds) -> Seeds {
        let (skip, step) = (self.index as usize, self.count as usize);
        Seeds(seeds.0.iter().copied().skip(skip).step_by(step).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar() {
        assert_eq!("1,2,5-10".parse(), Ok(Seeds(vec![1, 2, 5, 6, 7, 8, 9, 10])));
        assert_eq!("3,3".parse(), Ok(Seeds(vec![3, 3])));
        for bad in ["", "a", "5-3", "1,,2", "-1", "0-99999999999"] {
            assert!(bad.parse::<Seeds>().is_err(), "{bad}");
        }
        for text in ["0-63", "1,3-5,9", "7"] {
            assert_eq!(text.parse::<Seeds>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn shards_cover_all_seeds_once() {
        let seeds: Seeds = "0-9".parse().unwrap();
        let mut all: Vec<u64> = (0..3).flat_map(|index| Shard { index, count: 3 }.of(&seeds).0).collect();
        all.sort_unstable();
        assert_eq!(all, seeds.0);
        assert!("3/3".parse::<Shard>().is_err() && "x".parse::<Shard>().is_err());
    }
}
