//! Which volume of a store is meant: by its id, or by the name that its maker gave it.

use crate::args::Context;
use crate::commands::volume::found_table;
use crate::found::{self, Keys};
use orlop_model::{Error, FoundVolume, Result, VolumeId};
use orlop_store::ObjectStore;
use std::sync::Arc;

/// The volume that is meant; `None` if those that are there were listed instead.
pub(super) async fn wanted(asked: Option<&str>, store: &Arc<dyn ObjectStore>, keys: &Keys, cx: &Context) -> Result<Option<FoundVolume>> {
    // One that is known by its id is read even if nothing can be told of the others, or its header is missing.
    if let Some(id) = asked.and_then(|text| text.parse::<VolumeId>().ok()) {
        let found = match found::look(store.clone(), &format!("volumes/{id}"), id, keys).await? {
            None => found::headless(store, id).await?,
            found => found,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    let mut there = found::find(store, keys).await?;
    there.sort_by_key(|f| (f.made_at, f.id.to_string()));
    match asked {
        None => {
            cx.ui.show(&there, || found_table(&there))?;
            Ok(None)
        }
        Some(text) => choose(text, there, matches!(keys, Keys::Nowhere)).map(Some),
    }
}

fn choose(text: &str, there: Vec<FoundVolume>, keyless: bool) -> Result<FoundVolume> {
    let list = list(&there);
    let sealed = keyless && there.iter().any(|f| f.encrypted);
    let mut named = there.into_iter().filter(|f| f.name.as_ref().is_some_and(|n| n.as_str() == text));
    match (named.next(), named.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err(Error::invalid(format!("the store holds several volumes that were made as {text:?}"))
            .with_remedy(format!("give the id of the one that is meant; {list}"))),
        (None, _) => {
            let hidden = if sealed { "; the names of encrypted ones are read with --key FILE" } else { "" };
            Err(Error::not_found(format!("the store holds no volume {text:?}")).with_remedy(format!("{list}{hidden}")))
        }
    }
}

fn list(there: &[FoundVolume]) -> String {
    let one = |f: &FoundVolume| match (&f.name, &f.problem) {
        (Some(name), _) => format!("{} ({name})", f.id),
        (None, Some(problem)) => format!("{} ({problem})", f.id),
        (None, None) => f.id.to_string(),
    };
    match there.len() {
        0 => "the store holds no volume; see whether URL and settings are those of orlop store inspect".to_owned(),
        _ => format!("the store holds: {}", there.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_model::ErrorKind;

    fn found(name: Option<&str>, problem: Option<&str>) -> FoundVolume {
        FoundVolume {
            id: VolumeId::random(),
            name: name.map(|n| n.parse().expect("a name")),
            made_at: None,
            encrypted: problem.is_some(),
            last_host: None,
            released: true,
            problem: problem.map(ToOwned::to_owned),
            known_as: None,
        }
    }

    #[test]
    fn a_name_is_enough_where_one_volume_has_it() {
        let there = vec![found(Some("orders"), None), found(Some("logs"), None), found(Some("logs"), None), found(None, Some("no key"))];
        assert_eq!(choose("orders", there.clone(), true).expect("one").id, there[0].id);
        let twice = choose("logs", there.clone(), true).expect_err("two");
        let remedy = twice.remedy.expect("says which");
        assert!(
            twice.kind == ErrorKind::InvalidArgument
                && remedy.contains(&there[1].id.to_string())
                && remedy.contains(&there[2].id.to_string())
        );
        let none = choose("ordres", there.clone(), true).expect_err("none");
        assert!(none.kind == ErrorKind::NotFound && none.remedy.as_ref().is_some_and(|r| r.contains("(orders)") && r.contains("--key")));
        let keyed = choose("ordres", there, false).expect_err("none").remedy.expect("says why");
        assert!(keyed.contains("(no key)") && !keyed.contains("--key"), "one was given: {keyed}");
        assert!(choose("x", Vec::new(), true).expect_err("none").remedy.expect("says so").contains("no volume"));
    }
}
