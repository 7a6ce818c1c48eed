//! Values of options that clap cannot check by itself.

/// A finite number.
///
/// # Errors
/// Where the text is none.
pub fn finite(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(x) if x.is_finite() => Ok(x),
        Ok(_) => Err("it must be finite".to_owned()),
        Err(_) => Err("it is not a number".to_owned()),
    }
}

/// A number that may be infinite; infinity is the largest one there is, so that it can be written as JSON.
///
/// # Errors
/// Where the text is none.
pub fn bound(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(x) if x.is_nan() => Err("it is not a number".to_owned()),
        Ok(x) => Ok(x.clamp(f64::MIN, f64::MAX)),
        Err(_) => Err("it is not a number".to_owned()),
    }
}

/// A count of at least one.
///
/// # Errors
/// Where the text is none.
pub fn positive(text: &str) -> Result<usize, String> {
    match text.trim().parse::<usize>() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(n) => Ok(n),
        Err(_) => Err("it is not a whole number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_none_are_refused() {
        assert_eq!((finite("1e-3"), bound("inf")), (Ok(1e-3), Ok(f64::MAX)));
        assert!(finite("nan").is_err() && finite("inf").is_err() && bound("nan").is_err());
        assert!(positive("3") == Ok(3) && positive("0").is_err() && positive("-1").is_err());
    }
}
