//! What a run asks for: jobs, their parameters, and the next step of each.

use clap::ValueEnum;
use dpfs::wire::fuse::Opcode;

/// Name a job. The unit of its rates is one FUSE request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Job {
    /// READ at random blocks.
    Randread,
    /// WRITE at random blocks.
    Randwrite,
    /// READ from the beginning to the end, again and again.
    Read,
    /// WRITE from the beginning to the end, again and again.
    Write,
    /// GETATTR of the file.
    Getattr,
    /// LOOKUP of the file.
    Lookup,
    /// CREATE, RELEASE, UNLINK, FORGET of files of its own.
    CreateUnlink,
    /// READDIR from the beginning of the directory.
    Readdir,
    /// Seven random READs to three random WRITEs.
    Mixed,
}

impl Job {
    /// Give the name, as on the command line.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// Tell whether its requests carry blocks of the file.
    pub const fn moves_data(self) -> bool {
        !matches!(
            self,
            Self::Getattr | Self::Lookup | Self::CreateUnlink | Self::Readdir
        )
    }
}

/// Say how a job runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What to do.
    pub job: Job,
    /// Bytes of each READ and WRITE.
    pub block: u32,
    /// Requests in flight for each queue.
    pub depth: u16,
    /// Request queues.
    pub queues: u16,
    /// Seconds to measure, unless `count` ends it.
    pub seconds: f64,
    /// Requests to measure.
    pub count: Option<u64>,
    /// Seconds before the measurement.
    pub warmup: f64,
    /// Bytes of the file.
    pub size: u64,
    /// What blocks are chosen, and what they hold.
    pub seed: u64,
    /// Check every byte read.
    pub verify: bool,
    /// Sleep on interrupts.
    pub wait: bool,
    /// Longest time of one request in seconds.
    pub deadline: f64,
}

impl Settings {
    /// Check that the parameters fit each other.
    pub fn check(&self) -> Result<(), String> {
        let Self {
            block, size, depth, ..
        } = *self;
        if !block.is_multiple_of(512) || !(512..=1 << 20).contains(&block) {
            return Err(format!(
                "a block size of {block}: a multiple of 512 up to 1048576 is allowed"
            ));
        }
        if size < block.into() {
            return Err(format!(
                "a file of {size} bytes does not hold one block of {block}"
            ));
        }
        if !(1..=256).contains(&depth) {
            return Err(format!("a depth of {depth}: 1 to 256 is allowed"));
        }
        let blocks = size / u64::from(block);
        let flying = u64::from(depth) * u64::from(self.queues);
        if self.verify && self.job.moves_data() && blocks <= flying {
            return Err(format!(
                "{blocks} blocks: verification needs more than requests in flight, which are {flying}"
            ));
        }
        if !(1..=16).contains(&self.queues) {
            return Err(format!("{} queues: 1 to 16 are allowed", self.queues));
        }
        Ok(())
    }
}

/// What a place of the run does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// READ one block here.
    Read(u64),
    /// WRITE one block here.
    Write(u64),
    /// GETATTR.
    Getattr,
    /// LOOKUP.
    Lookup,
    /// READDIR.
    Readdir,
    /// CREATE the file with this number.
    Create(u64),
    /// RELEASE it: number, node, file handle.
    Release(u64, u64, u64),
    /// UNLINK it: number, node.
    Unlink(u64, u64),
    /// FORGET this node; has no answer.
    Forget(u64),
}

impl Step {
    /// Give the operation.
    pub const fn opcode(self) -> Opcode {
        match self {
            Self::Read(_) => Opcode::READ,
            Self::Write(_) => Opcode::WRITE,
            Self::Getattr => Opcode::GETATTR,
            Self::Lookup => Opcode::LOOKUP,
            Self::Readdir => Opcode::READDIR,
            Self::Create(_) => Opcode::CREATE,
            Self::Release(..) => Opcode::RELEASE,
            Self::Unlink(..) => Opcode::UNLINK,
            Self::Forget(_) => Opcode::FORGET,
        }
    }
}

/// Choose steps, the same ones for the same seed.
#[derive(Clone, Debug)]
pub struct Chooser {
    job: Job,
    block: u64,
    blocks: u64,
    state: u64,
    cursor: u64,
}

impl Chooser {
    /// Begin.
    pub fn new(settings: &Settings) -> Self {
        let block = u64::from(settings.block);
        Self {
            job: settings.job,
            block,
            blocks: settings.size / block,
            // Any state but zero.
            state: settings
                .seed
                .wrapping_mul(2)
                .wrapping_add(0x9e37_79b9_7f4a_7c15)
                | 1,
            cursor: 0,
        }
    }

    /// xorshift64: more than enough to spread blocks.
    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn any_block(&mut self) -> u64 {
        self.random() % self.blocks * self.block
    }

    fn next_block(&mut self) -> u64 {
        self.cursor += 1;
        (self.cursor - 1) % self.blocks * self.block
    }

    /// Choose the first step of an operation.
    pub fn choose(&mut self) -> Step {
        match self.job {
            Job::Randread => Step::Read(self.any_block()),
            Job::Randwrite => Step::Write(self.any_block()),
            Job::Read => Step::Read(self.next_block()),
            Job::Write => Step::Write(self.next_block()),
            Job::Mixed => match self.random() % 10 {
                0..7 => Step::Read(self.any_block()),
                _ => Step::Write(self.any_block()),
            },
            Job::Getattr => Step::Getattr,
            Job::Lookup => Step::Lookup,
            Job::Readdir => Step::Readdir,
            Job::CreateUnlink => {
                self.cursor += 1;
                Step::Create(self.cursor)
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn settings(job: Job) -> Settings {
        Settings {
            job,
            block: 4096,
            depth: 4,
            queues: 1,
            seconds: 60.0,
            count: Some(500),
            warmup: 0.0,
            size: 1 << 20,
            seed: 3,
            verify: false,
            wait: false,
            deadline: 5.0,
        }
    }

    #[test]
    fn blocks_lie_in_the_file_and_a_seed_repeats_them() {
        let settings = settings(Job::Mixed);
        let (mut one, mut two) = (Chooser::new(&settings), Chooser::new(&settings));
        let (mut reads, mut writes) = (0, 0);
        for _ in 0..1000 {
            let step = one.choose();
            assert_eq!(step, two.choose());
            let (Step::Read(at) | Step::Write(at)) = step else {
                panic!("{step:?}");
            };
            assert!(at + 4096 <= 1 << 20 && at % 4096 == 0);
            match step {
                Step::Read(_) => reads += 1,
                _ => writes += 1,
            }
        }
        assert!(reads > 600 && writes > 200, "{reads} to {writes}");
    }

    #[test]
    fn a_sequential_job_begins_again_at_the_end() {
        let mut settings = settings(Job::Read);
        settings.size = 3 * 4096 + 100;
        let mut chooser = Chooser::new(&settings);
        let steps: Vec<_> = (0..4).map(|_| chooser.choose()).collect();
        assert_eq!(steps, [0, 4096, 8192, 0].map(Step::Read));
    }

    #[test]
    fn impossible_parameters_are_refused() {
        for change in [
            |s: &mut Settings| s.block = 1000,
            |s: &mut Settings| s.block = 2 << 20,
            |s: &mut Settings| s.size = 100,
            |s: &mut Settings| s.depth = 0,
            |s: &mut Settings| s.queues = 17,
        ] {
            let mut settings = settings(Job::Read);
            assert_eq!(settings.check(), Ok(()));
            change(&mut settings);
            assert!(settings.check().is_err());
        }
    }
}
