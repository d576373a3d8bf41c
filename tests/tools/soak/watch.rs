//! The resources of the service, read from /proc.

use std::fs;
use std::time::Instant;

use rustix::process::Pid;

#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub pid: Pid,
    pub at: Instant,
    pub descriptors: u64,
    pub threads: u64,
    pub rss_kib: u64,
}

/// `None` if the process has ended, or is still the shell that becomes it.
pub fn sample(pid: Pid) -> Option<Sample> {
    let directory = format!("/proc/{}", pid.as_raw_nonzero());
    let status = fs::read_to_string(format!("{directory}/status")).ok()?;
    let field = |name: &str| -> Option<&str> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':')?.split_whitespace().next()
    };
    if field("Name")? == "sh" {
        return None;
    }
    Some(Sample {
        pid,
        at: Instant::now(),
        descriptors: fs::read_dir(format!("{directory}/fd")).ok()?.count() as u64,
        threads: field("Threads")?.parse().ok()?,
        rss_kib: field("VmRSS")?.parse().ok()?,
    })
}

/// The mean of the memory in each quarter of the time, in KiB.
pub fn quarters(samples: &[Sample]) -> Option<[u64; 4]> {
    let (first, last) = (samples.first()?.at, samples.last()?.at);
    let quarter = (last - first).as_secs_f64() / 4.0;
    let (mut sums, mut counts) = ([0; 4], [0; 4]);
    for sample in samples {
        let n = ((sample.at - first).as_secs_f64() / quarter) as usize;
        sums[n.min(3)] += sample.rss_kib;
        counts[n.min(3)] += 1;
    }
    if counts.contains(&0) {
        return None;
    }
    Some(std::array::from_fn(|n| sums[n] / counts[n]))
}
