//! The command line reference `docs/cli.md`, made from the commands themselves, so that it cannot go stale.

#[cfg(test)]
mod tests {
    use crate::args::Cli;
    use crate::failure::EXIT_CODES;
    use clap::{Command, CommandFactory};
    use std::path::Path;

    fn text() -> String {
        let mut out = String::from(
            "# The command line\n\n\
             Made from the commands by the test `the_reference_is_up_to_date`; \
             `ORLOP_WRITE_DOCS=1 cargo test -p orlop-cli reference` writes it anew.\n\n\
             Results go to standard output, remarks and errors to standard error: `error:` names the cause, `hint:` the\n\
             remedy; with `--output json` or `yaml` an error is an object with `kind`, `message` and `remedy`.\n\n\
             ## Exit codes\n\n| code | meaning |\n|---|---|\n",
        );
        for (code, meaning) in EXIT_CODES {
            out.push_str(&format!("| {code} | {meaning} |\n"));
        }
        let mut command = Cli::command().term_width(100);
        command.build();
        section(&mut out, &mut command);
        out
    }

    fn section(out: &mut String, command: &mut Command) {
        let name = command.get_bin_name().unwrap_or("orlop").to_owned();
        let help = command.render_long_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        out.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end()));
        for sub in command.get_subcommands_mut().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
            section(out, sub);
        }
    }

    #[test]
    fn the_reference_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
        let made = text();
        if std::env::var_os("ORLOP_WRITE_DOCS").is_some() {
            std::fs::write(&path, &made).expect("docs/cli.md can be written");
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == made, "docs/cli.md is stale; write it with: ORLOP_WRITE_DOCS=1 cargo test -p orlop-cli reference");
    }
}
