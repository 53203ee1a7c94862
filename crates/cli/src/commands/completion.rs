//! `orlop completion`

use crate::args::{Cli, Context};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use orlop_model::{Error, Result};

/// Around what the generator makes: names, where the program tells some, and what it offers else.
const BASH: &str = r#"
_orlop_with_names() {
    local names
    if [[ $2 != -* ]]; then
        names=$("$1" names -- "${COMP_WORDS[@]:0:COMP_CWORD}" 2>/dev/null)
        if [[ -n $names ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$names" -- "$2")
            return 0
        fi
    fi
    _orlop "$@"
}

complete -F _orlop_with_names -o bashdefault -o default orlop
"#;

const FISH: &str = r#"
function __fish_orlop_names
    set -l words (commandline -opc)
    command $words[1] names -- $words 2>/dev/null
end

complete -c orlop -f -n 'count (__fish_orlop_names) >/dev/null' -a '(__fish_orlop_names)'
"#;

/// What calls the function, where the script itself is a file that is loaded on demand.
const ZSH_END: &str = "if [ \"$funcstack[1]\" = \"_orlop\" ]";
const ZSH: &str = r#"functions[_orlop_words]=$functions[_orlop]
_orlop() {
    local -a names
    if [[ $PREFIX != -* ]]; then
        names=("${(@f)$(command $words[1] names -- "${(@)words[1,CURRENT-1]}" 2>/dev/null)}")
        names=(${names:#})
        if (( $#names )); then
            compadd -a names
            return
        fi
    fi
    _orlop_words "$@"
}

"#;

/// Writes a completion script for a shell.
///
/// For bash: `orlop completion bash > /usr/share/bash-completion/completions/orlop`. In bash, fish and zsh it also completes the names of
/// volumes and stores, for which it asks the daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For which shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args, cx: &Context) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut visible(&Cli::command()), "orlop", &mut script);
    let script = String::from_utf8(script).map_err(|e| Error::internal(format!("the script is no text: {e}")))?;
    cx.ui.raw(with_names(args.shell, script).as_bytes())?;
    Ok(0)
}

/// A script that also asks for names.
fn with_names(shell: Shell, mut script: String) -> String {
    match shell {
        Shell::Bash => script.push_str(BASH),
        Shell::Fish => script.push_str(FISH),
        Shell::Zsh => {
            if let Some(end) = script.rfind(ZSH_END) {
                script.insert_str(end, ZSH);
            }
        }
        _ => {}
    }
    script
}

/// The same command without what is not for people; the generators would offer it all the same.
fn visible(whole: &Command) -> Command {
    let shared = whole.get_arguments().filter(|a| !a.is_hide_set()).cloned();
    let commands = whole.get_subcommands().filter(|c| !c.is_hide_set()).cloned();
    let about = whole.get_about().cloned().unwrap_or_default();
    Command::new("orlop").about(about).version(env!("CARGO_PKG_VERSION")).args(shared).subcommands(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_asks_for_names_where_the_shell_can() {
        let script = |shell| {
            let mut made = Vec::new();
            clap_complete::generate(shell, &mut visible(&Cli::command()), "orlop", &mut made);
            with_names(shell, String::from_utf8(made).expect("text"))
        };
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            assert!(script(shell).contains(" names -- "), "{shell}");
        }
        // What is wrapped is what the generators make, and what wraps it comes before it is called.
        assert!(script(Shell::Bash).contains("\n_orlop() {") || script(Shell::Bash).starts_with("_orlop() {"));
        let zsh = script(Shell::Zsh);
        let at = |part: &str| zsh.find(part).unwrap_or_else(|| panic!("{part} is missing"));
        assert!(at("\n_orlop() {\n    typeset") < at("functions[_orlop_words]") && at("functions[_orlop_words]") < at(ZSH_END));
    }
}
