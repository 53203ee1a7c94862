//! Which request suffers what: rules by method, by a part of the target, by chance and by number.

use std::time::Duration;

/// What a request suffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is passed on this much later.
    Latency(Duration),
    /// Its body, and that of its answer, travel at no more than this many bytes a second.
    Bandwidth(u64),
    /// It is answered with this status, and the server never sees it.
    Status(u16),
    /// It is taken and never answered. When the faults change, its connection is reset.
    Hang,
    /// Its connection is reset before the server sees it.
    Reset,
    /// The server does it, and the connection is reset instead of the answer.
    LoseAnswer,
    /// Half of the answer's body arrives, then the connection ends.
    Truncate,
    /// One bit of the body of a successful answer is wrong.
    Flip,
    /// The server does not see `If-Match` and `If-None-Match`: it behaves as one that ignores them.
    StripConditions,
    /// The client does not see the `ETag` of an answer.
    StripVersion,
    /// Writes reach the server one at a time, and reads in between: one that looks first and writes later, and reads a
    /// body and its version apart, decides races then.
    OneAtATime,
    /// The times in the heads of answers are this many seconds ahead: the server's clock is wrong.
    Ahead(i64),
}

/// A fault, and the requests that suffer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    fault: Fault,
    method: Option<String>,
    part: Option<String>,
    one_in: u64,
    times: u64,
}

impl From<Fault> for Rule {
    fn from(fault: Fault) -> Self {
        Rule { fault, method: None, part: None, one_in: 1, times: u64::MAX }
    }
}

impl Rule {
    /// Every request suffers it.
    pub fn new(fault: Fault) -> Self {
        fault.into()
    }

    /// Only requests with this method.
    #[must_use]
    pub fn on(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Only requests whose target, path and query as they are sent, contains this.
    #[must_use]
    pub fn at(mut self, part: &str) -> Self {
        self.part = Some(part.to_owned());
        self
    }

    /// Of those, by chance one in this many.
    #[must_use]
    pub fn one_in(mut self, n: u64) -> Self {
        self.one_in = n.max(1);
        self
    }

    /// Only the first so many times.
    #[must_use]
    pub fn times(mut self, n: u64) -> Self {
        self.times = n;
        self
    }

    fn fits(&self, method: &str, target: &str) -> bool {
        self.method.as_ref().is_none_or(|m| m == method) && self.part.as_ref().is_none_or(|p| target.contains(p.as_str()))
    }
}

/// What a proxy does wrong from now on.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Connections are refused, and those that live are reset.
    pub down: bool,
    /// Equal seeds and equal requests in equal order give equal faults.
    pub seed: u64,
    /// What single requests suffer; all rules that fit apply, the first of those that exclude each other.
    pub rules: Vec<Rule>,
}

impl Faults {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Faults::default()
    }

    /// Nobody is there.
    pub fn down() -> Self {
        Faults { down: true, ..Faults::default() }
    }

    /// This goes wrong, and nothing else: a [`Fault`] for every request, or a [`Rule`].
    pub fn only(rule: impl Into<Rule>) -> Self {
        Faults::none().and(rule)
    }

    /// This goes wrong too.
    #[must_use]
    pub fn and(mut self, rule: impl Into<Rule>) -> Self {
        self.rules.push(rule.into());
        self
    }
}

/// The faults with their memory: what was asked so far decides what comes.
#[derive(Debug, Default)]
pub(super) struct Judge {
    faults: Faults,
    /// Of each rule: requests that fitted, and that suffered.
    counts: Vec<(u64, u64)>,
    pub(super) injected: u64,
}

impl Judge {
    pub(super) fn set(&mut self, faults: Faults) {
        self.counts = vec![(0, 0); faults.rules.len()];
        self.faults = faults;
    }

    pub(super) fn down(&self) -> bool {
        self.faults.down
    }

    /// What this request suffers, and a number for what is left to chance in it.
    pub(super) fn judge(&mut self, method: &str, target: &str) -> (Vec<Fault>, u64) {
        let mut all = Vec::new();
        let mut chance = self.faults.seed;
        for (i, (rule, (fitted, suffered))) in self.faults.rules.iter().zip(&mut self.counts).enumerate() {
            if !rule.fits(method, target) || *suffered >= rule.times {
                continue;
            }
            *fitted += 1;
            chance = mix(self.faults.seed ^ mix(i as u64 + 1) ^ *fitted);
            if chance.is_multiple_of(rule.one_in) {
                *suffered += 1;
                self.injected += 1;
                all.push(rule.fault);
            }
        }
        (all, mix(chance))
    }
}

/// SplitMix64: equal inputs, equal outputs, no pattern between them.
fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_choose_by_method_target_chance_and_number() {
        let faults = Faults { seed: 7, ..Faults::none() }
            .and(Rule::new(Fault::Status(503)).on("PUT").at("log/").times(2))
            .and(Rule::new(Fault::Flip).one_in(4));
        let run = || {
            let mut judge = Judge::default();
            judge.set(faults.clone());
            (0..400).map(|i| judge.judge(if i % 2 == 0 { "PUT" } else { "GET" }, "/b/log/1").0).collect::<Vec<_>>()
        };
        let seen = run();
        assert_eq!(seen, run(), "equal seeds give equal faults");
        let count = |f| seen.iter().filter(|s| s.contains(&f)).count();
        assert_eq!(count(Fault::Status(503)), 2);
        assert!(seen[0].contains(&Fault::Status(503)) && !seen[1].contains(&Fault::Status(503)));
        assert!((50..150).contains(&count(Fault::Flip)), "{}", count(Fault::Flip));
    }
}
