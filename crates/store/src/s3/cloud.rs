//! Credentials that the cloud itself gives out, for a while, to whoever runs in the right place: the client asks for them,
//! keeps them, and asks again before they end. Nobody is asked unless a store's credentials say so.

use super::settings::Settings;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};
use orlop_model::{CredentialsRef, Error, ErrorKind, Result};

/// The client, told whom to ask. What the environment names comes from `env`.
pub(super) fn asking(
    builder: AmazonS3Builder,
    reference: &CredentialsRef,
    settings: &Settings,
    env: impl Fn(&str) -> Option<String>,
) -> Result<AmazonS3Builder> {
    let found = |name: &str| env(name).filter(|v| !v.is_empty());
    let missing = |names: &str| {
        Error::new(ErrorKind::Denied, format!("credentials {reference}: the environment of Orlop has no {names}"))
            .with_remedy("start orlop up where the cloud sets them, or use credentials of another kind")
    };
    match reference {
        CredentialsRef::Instance => Ok(match &settings.metadata_endpoint {
            Some(endpoint) => builder.with_metadata_endpoint(endpoint.as_str().trim_end_matches('/')),
            None => builder,
        }),
        CredentialsRef::Container => {
            if let Some(path) = found("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
                return Ok(builder.with_config(Key::ContainerCredentialsRelativeUri, path));
            }
            let names = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, nor AWS_CONTAINER_CREDENTIALS_FULL_URI with \
                         AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
            let uri = found("AWS_CONTAINER_CREDENTIALS_FULL_URI").ok_or_else(|| missing(names))?;
            let file = found("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").ok_or_else(|| missing(names))?;
            Ok(builder.with_config(Key::ContainerCredentialsFullUri, uri).with_config(Key::ContainerAuthorizationTokenFile, file))
        }
        CredentialsRef::WebIdentity => {
            let file = found("AWS_WEB_IDENTITY_TOKEN_FILE").ok_or_else(|| missing("AWS_WEB_IDENTITY_TOKEN_FILE"))?;
            let role = found("AWS_ROLE_ARN").ok_or_else(|| missing("AWS_ROLE_ARN"))?;
            let mut builder = builder.with_config(Key::WebIdentityTokenFile, file).with_config(Key::RoleArn, role);
            for (name, key) in [("AWS_ROLE_SESSION_NAME", Key::RoleSessionName), ("AWS_ENDPOINT_URL_STS", Key::StsEndpoint)] {
                if let Some(value) = found(name) {
                    builder = builder.with_config(key, value);
                }
            }
            Ok(builder)
        }
        CredentialsRef::Environment(_) | CredentialsRef::File(_) | CredentialsRef::Command(_) => {
            Err(Error::internal("they are read, not asked for by the client"))
        }
    }
}

/// Whether the client asks for credentials of this kind by itself.
pub(super) fn gives_out(reference: &CredentialsRef) -> bool {
    matches!(reference, CredentialsRef::Instance | CredentialsRef::Container | CredentialsRef::WebIdentity)
}

#[cfg(test)]
#[path = "cloud_tests.rs"]
mod tests;
