//! Checks of the Docker next door: whether it is there, and whether it made silent local twins of our volumes.
//!
//! While a plugin's socket is missing, `docker run -v name:/data` makes a local volume of that name without a
//! word. The container writes there, and our volume stays empty: the worst kind of surprise, so it is looked for.

use super::Finding;
use orlop_api::client::{Endpoint, Transport};
use orlop_api::wire::Status;
use orlop_model::{Error, Result, Volume};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// Everything about Docker.
pub(crate) async fn check(status: Option<&Status>, volumes: &[Volume]) -> Vec<Finding> {
    let host = std::env::var("DOCKER_HOST").ok().filter(|h| !h.is_empty());
    let endpoint = match endpoint(host.as_deref()) {
        Ok(endpoint) => endpoint,
        Err(e) => return vec![Finding::failed("docker", e, "unset DOCKER_HOST")],
    };
    let docker = Transport::new(endpoint.clone()).patient(Duration::from_secs(20));
    let info = match get(&docker, "/info").await {
        Ok(info) => info,
        Err(e) => {
            let mut findings = twins_on_disk(Path::new("/var/lib/docker"), volumes);
            findings.push(Finding::note(
                "docker",
                format!("dockerd does not answer, so only its folder was looked at: {}", e.message),
                "start dockerd, or set DOCKER_HOST, if Docker is used here",
            ));
            return findings;
        }
    };
    let version = info["ServerVersion"].as_str().unwrap_or("of unknown version");
    let mut findings = vec![Finding::ok("docker", format!("dockerd {version} answers on {endpoint}"))];
    findings.extend(twins(&docker, volumes).await);
    if let Some(name) = status.and_then(|s| s.host.plugin.as_deref()) {
        let known = info["Plugins"]["Volume"].as_array().is_some_and(|v| v.iter().any(|p| p.as_str() == Some(name)));
        if known {
            findings.push(Finding::ok("docker", format!("dockerd knows the volume driver {name}")));
        }
    }
    findings
}

/// Where dockerd listens, as the docker command line would decide.
fn endpoint(host: Option<&str>) -> Result<Endpoint> {
    match host {
        None => Ok(Endpoint::Unix(DEFAULT_SOCKET.into())),
        Some(host) => match host.split_once("://") {
            Some(("unix", path)) => Ok(Endpoint::Unix(path.into())),
            Some(("tcp" | "http", address)) => Ok(Endpoint::Tcp(address.trim_end_matches('/').to_owned())),
            _ => Err(Error::invalid(format!("DOCKER_HOST={host} cannot be asked from here"))
                .with_remedy("set DOCKER_HOST to unix:///path or tcp://host:port")),
        },
    }
}

async fn get(docker: &Transport, path: &str) -> Result<Value> {
    let body = docker.request(hyper::Method::GET, path, None).await?;
    let status = body.status;
    let value = body.json::<Value>().await?;
    if status.is_success() {
        return Ok(value);
    }
    Err(Error::unavailable(format!("dockerd answers {status} to {path}: {}", value["message"].as_str().unwrap_or("no reason"))))
}

async fn twins(docker: &Transport, volumes: &[Volume]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for volume in volumes {
        // dockerd remembers one driver for each name; a twin hides our volume there.
        let Ok(seen) = get(docker, &format!("/volumes/{}", volume.name)).await else { continue };
        if seen["Driver"].as_str() == Some("local") {
            let path = seen["Mountpoint"].as_str().unwrap_or("its folder").to_owned();
            findings.push(twin(volume.name.as_str(), &path, &users(docker, volume.name.as_str()).await));
        }
    }
    if findings.is_empty() && !volumes.is_empty() {
        findings.push(Finding::ok("twins", "no volume has a silent local twin in Docker"));
    }
    findings
}

/// The containers that use a volume, by name.
async fn users(docker: &Transport, name: &str) -> Vec<String> {
    // The filter is JSON; its quotes and brackets are written as a query has them. Names need no escape.
    let path = format!("/containers/json?all=true&filters=%7B%22volume%22%3A%5B%22{name}%22%5D%7D");
    let Ok(list) = get(docker, &path).await else { return Vec::new() };
    let names = list.as_array().into_iter().flatten().filter_map(|c| c["Names"][0].as_str());
    names.map(|n| n.trim_start_matches('/').to_owned()).collect()
}

fn twin(name: &str, path: &str, users: &[String]) -> Finding {
    let by = if users.is_empty() { String::new() } else { format!(", used by: {}", users.join(", ")) };
    let stop = if users.is_empty() { String::new() } else { format!("remove {} with docker rm -f; ", users.join(" ")) };
    Finding::problem(
        "twins",
        format!(
            "Docker has a silent local volume named {name} beside Orlop's ({path}{by}): it was made while Orlop was not running, and containers write there"
        ),
        format!("{stop}copy what is in {path}, then: docker volume rm {name}, and run the containers again"),
    )
}

/// Without dockerd its folder still tells.
fn twins_on_disk(data_root: &Path, volumes: &[Volume]) -> Vec<Finding> {
    let folder = |name: &str| data_root.join("volumes").join(name).join("_data");
    volumes
        .iter()
        .map(|v| (v.name.as_str(), folder(v.name.as_str())))
        .filter(|(_, path)| path.is_dir())
        .map(|(name, path)| twin(name, &path.display().to_string(), &[]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_host_is_understood_or_named() {
        assert_eq!(endpoint(None).expect("default"), Endpoint::Unix(DEFAULT_SOCKET.into()));
        assert_eq!(endpoint(Some("unix:///tmp/d.sock")).expect("unix"), Endpoint::Unix("/tmp/d.sock".into()));
        assert_eq!(endpoint(Some("tcp://127.0.0.1:2375")).expect("tcp"), Endpoint::Tcp("127.0.0.1:2375".into()));
        assert!(endpoint(Some("ssh://host")).expect_err("not from here").message.contains("ssh://host"));
    }
}
