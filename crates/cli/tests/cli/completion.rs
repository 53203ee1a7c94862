//! Completion as a shell asks for it: names come from the daemon, and without one everything else goes on.

use crate::world::{World, can_mount};
use std::process::Command;
use std::time::{Duration, Instant};

/// What bash says to a line of its own after it has read the completion script; `$0` is the program.
fn bash(world: &World, line: &str, words: &[&str]) -> String {
    let program = world.command(&[]).get_program().to_owned();
    let mut bash = Command::new("bash");
    bash.env("ORLOP_ROOT", &world.root).args(["-c", &format!("source <(\"$0\" completion bash)\n{line}")]).arg(program).args(words);
    let output = bash.output().expect("bash runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{words:?}: {out}{err}");
    out.into_owned()
}

/// What bash offers for the last of these words.
fn offered(world: &World, words: &[&str]) -> Vec<String> {
    let asked = r#"COMP_WORDS=("$0" "$@"); COMP_CWORD=$#
        _orlop_with_names "$0" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    bash(world, asked, words).lines().filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

#[test]
fn volumes_and_stores_are_completed_by_name_and_nothing_is_said_without_a_daemon() {
    if !can_mount("completion") {
        return;
    }
    let world = World::up();
    for name in ["alpha", "beta", "gone"] {
        world.run(&["volume", "create", name]).ok();
    }
    world.run(&["volume", "remove", "gone"]).ok();
    assert!(bash(&world, "complete -p orlop", &[]).contains("-F _orlop_with_names "));
    assert_eq!(offered(&world, &["volume", "inspect", ""]), ["alpha", "beta"]);
    assert_eq!(offered(&world, &["volume", "rm", "alpha", "b"]), ["beta"]);
    assert_eq!(offered(&world, &["volume", "restore", ""]), ["gone"]);
    assert_eq!(offered(&world, &["audit", "list", "--volume", "=", "al"]), ["alpha"]);
    assert_eq!(offered(&world, &["store", "test", ""]), ["default"]);
    assert!(offered(&world, &["vol"]).contains(&"volume".to_owned()), "commands as before");
    assert!(offered(&world, &["volume", "inspect", "--ro"]).contains(&"--root".to_owned()));
    for words in [&["volume", "create", ""][..], &["mount", "alpha", ""], &["--root", "/nonexistent", "volume", "inspect", ""]] {
        assert!(!offered(&world, words).contains(&"beta".to_owned()), "{words:?}");
    }

    world.run(&["down"]).ok();
    let began = Instant::now();
    assert!(!offered(&world, &["volume", "inspect", ""]).contains(&"beta".to_owned()));
    let silent = world.run(&["names", "--", "orlop", "volume", "inspect"]).ok();
    assert!(silent.out.is_empty() && silent.err.is_empty(), "{}{}", silent.out, silent.err);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
