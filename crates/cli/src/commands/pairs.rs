//! `KEY=VALUE` arguments, with errors that name the argument and show its right form.

use orlop_model::{Error, OPTION_HELP, Result};
use std::collections::BTreeMap;

/// Reads `-o` or `--label` arguments; `flag` is how the user wrote it.
pub(crate) fn read(flag: &str, given: &[String]) -> Result<BTreeMap<String, String>> {
    let mut pairs = BTreeMap::new();
    for text in given {
        let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
            Error::invalid(format!("{flag} {text:?} is not of the form KEY=VALUE")).with_remedy(format!("write {flag} key=value"))
        })?;
        if pairs.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Error::invalid(format!("{flag} {key} is given twice")).with_remedy("give it once"));
        }
    }
    Ok(pairs)
}

/// The options of volumes as help text.
pub(crate) fn option_help() -> String {
    let mut text = "Options (-o KEY=VALUE):\n".to_owned();
    for (key, meaning) in OPTION_HELP {
        text.push_str(&format!("  {key:<12} {meaning}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_without_a_value_or_given_twice_is_refused() {
        for bad in [vec!["size"], vec!["=1"], vec!["a=1", "a=2"]] {
            let given: Vec<String> = bad.iter().map(|s| (*s).to_owned()).collect();
            assert!(read("-o", &given).expect_err("refused").remedy.is_some());
        }
        assert_eq!(read("--label", &["a=b=c".to_owned(), "d=".to_owned()]).expect("fine")["a"], "b=c");
    }
}
