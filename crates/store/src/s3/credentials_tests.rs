//! Credentials by every reference, in every form; and that no error ever repeats what it read.

use super::*;

const PATIENT: Duration = Duration::from_secs(10);
const PLANTED: &str = "planted-secret-4f1c";

fn file_with(text: &str, mode: u32) -> (tempfile::TempDir, CredentialsRef) {
    let dir = tempfile::tempdir().expect("temp folder");
    let path = dir.path().join("credentials");
    std::fs::write(&path, text).expect("writes");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("sets the mode");
    (dir, CredentialsRef::File(path.display().to_string()))
}

fn shown(c: &Credentials) -> [&str; 3] {
    [c.key_id.expose(), c.secret_key.expose(), c.token.as_ref().map_or("", Secret::expose)]
}

#[test]
fn every_form_is_read() {
    for (text, token) in [
        ("[default]\naws_access_key_id = AK\naws_secret_access_key = SK\n", ""),
        ("# mine\n[other]\naws_access_key_id=x\naws_secret_access_key=y\n[default]\naws_access_key_id=AK\naws_secret_access_key=SK", ""),
        ("[prod]\naws_access_key_id=AK\naws_secret_access_key=SK\naws_session_token=T\n", "T"),
        ("export AWS_ACCESS_KEY_ID=AK\nexport AWS_SECRET_ACCESS_KEY=\"SK\"\n", ""),
        (r#"{"access_key_id": "AK", "secret_access_key": "SK", "session_token": "T"}"#, "T"),
        (r#"{"Version": 1, "AccessKeyId": "AK", "SecretAccessKey": "SK", "SessionToken": "T"}"#, "T"),
    ] {
        assert_eq!(shown(&parse(text).expect(text)), ["AK", "SK", token], "{text}");
    }
}

#[test]
fn a_file_that_others_can_read_is_refused() {
    let text = format!("[default]\naws_access_key_id=AK\naws_secret_access_key={PLANTED}\n");
    for (mode, fits) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)] {
        let (_dir, reference) = file_with(&text, mode);
        let read = Credentials::read(&reference, PATIENT);
        assert_eq!(read.is_ok(), fits, "{mode:o}");
        if let Err(e) = read {
            assert_eq!(e.kind, ErrorKind::Denied);
            assert!(e.remedy.as_ref().is_some_and(|r| r.contains("chmod 600")), "{e}");
        }
    }
    let folder = CredentialsRef::File("/".into());
    assert!(Credentials::read(&folder, PATIENT).is_err());
    let absent = CredentialsRef::File("/nonexistent/credentials".into());
    assert_eq!(Credentials::read(&absent, PATIENT).expect_err("absent").kind, ErrorKind::NotFound);
}

#[test]
fn no_error_and_no_debug_repeats_what_was_read() {
    for text in [
        PLANTED.to_owned(),
        format!("[default]\naws_secret_access_key={PLANTED}\n"),
        format!("{{\"secret_access_key\": \"{PLANTED}\""),
        format!("{{\"secret_access_key\": \"{PLANTED}\"}}"),
        format!("{{\"access_key_id\": \"a\", \"secret_access_key\": \"{PLANTED}\\n\"}}"),
        format!("[default]\naws_access_key_id=a b\naws_secret_access_key={PLANTED}\n"),
        format!("[a]\naws_secret_access_key={PLANTED}\n[b]\n"),
    ] {
        let (_dir, reference) = file_with(&text, 0o600);
        let e = Credentials::read(&reference, PATIENT).expect_err(&text);
        assert!(!format!("{e} {e:?}").contains(PLANTED), "{e}");
        let print = CredentialsRef::Command(format!("/bin/sh -c 'echo \"$0\"; echo \"$0\" >&2; exit 3' {PLANTED}"));
        let e = Credentials::read(&print, PATIENT).expect_err("it fails");
        assert!(!format!("{e} {e:?}").contains(PLANTED) && e.message.contains('3'), "{e}");
    }
    let good = parse(&format!("AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY={PLANTED}\nAWS_SESSION_TOKEN={PLANTED}")).expect("fits");
    assert!(!format!("{good:?}").contains(PLANTED), "{good:?}");
}

#[test]
fn a_command_is_run_without_a_shell_and_not_for_ever() {
    let print = r#"/usr/bin/printf '{"access_key_id": "%s", "secret_access_key": "%s"}' AK "$SK;x""#;
    let read = Credentials::read(&CredentialsRef::Command(print.into()), PATIENT).expect("prints");
    assert_eq!(shown(&read), ["AK", "$SK;x", ""]);
    let began = Instant::now();
    let slow = Credentials::read(&CredentialsRef::Command("/bin/sleep 60".into()), Duration::from_millis(200));
    assert_eq!(slow.expect_err("it sleeps").kind, ErrorKind::Unavailable);
    assert!(began.elapsed() < Duration::from_secs(5));
    let absent = Credentials::read(&CredentialsRef::Command("/nonexistent/program".into()), PATIENT);
    assert!(absent.expect_err("absent").message.contains("/nonexistent/program"));
}

#[test]
fn words_are_split_as_everywhere() {
    assert_eq!(words(r#"/a b  'c d' "e\"f" g\ h ''"#).expect("fits"), ["/a", "b", "c d", "e\"f", "g h", ""]);
    assert!(words("/a 'b").is_err());
}

#[test]
fn a_missing_variable_is_named() {
    for prefix in ["ORLOP_NEVER_SET", "ORLOP_NEVER_SET_"] {
        let e = Credentials::read(&CredentialsRef::Environment(prefix.into()), PATIENT).expect_err("not set");
        assert!(e.message.contains("ORLOP_NEVER_SET_ACCESS_KEY_ID"), "{e}");
    }
}
