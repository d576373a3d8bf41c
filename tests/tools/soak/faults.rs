//! Injects faults while clients are served.

use std::thread;

use crate::dice::Dice;
use crate::registry::Registry;
use crate::report::{Counter, Fault, row};
use crate::world::World;

const ALL: [Fault; 8] = [
    Fault::RegistryRestarts,
    Fault::ConnectionsAreCut,
    Fault::Kill,
    Fault::Kill,
    Fault::Kill,
    Fault::KillAndDamage,
    Fault::DiskFills,
    Fault::ClockJumps,
];
/// Those that one process lives through, so that what it leaks adds up.
const WITHOUT_KILLS: [Fault; 4] = [
    Fault::RegistryRestarts,
    Fault::ConnectionsAreCut,
    Fault::DiskFills,
    Fault::ClockJumps,
];

#[derive(Default)]
pub struct Faults {
    happened: Counter,
    restarts: Counter,
    phases_of_cuts: Counter,
    full_disks: Counter,
    clock_jumps: Counter,
    moved_times: Counter,
    damaged: Counter,
}

impl Faults {
    /// One fault, or two at once, from begin to end.
    pub fn happen(&self, world: &World, registry: &mut Registry, dice: &mut Dice, may_kill: bool) {
        let kinds: &[Fault] = if may_kill { &ALL } else { &WITHOUT_KILLS };
        // Each once, and then as the dice have it.
        let lasting = match kinds.get(self.happened.get() as usize) {
            Some(next) => *next,
            None => *dice.pick(kinds),
        };
        self.happened.up();
        if dice.percent(30) {
            // The second one comes in the middle of the first.
            let _window = world.windows.begin(&[lasting, Fault::ConnectionsAreCut]);
            let cutting = world.relay.cuts();
            world.relay.set_cutting(true);
            self.one(world, registry, dice, lasting);
            world.relay.set_cutting(false);
            if world.relay.cuts() > cutting {
                self.phases_of_cuts.up();
            }
        } else {
            let _window = world.windows.begin(&[lasting]);
            self.one(world, registry, dice, lasting);
        }
    }

    fn one(&self, world: &World, registry: &mut Registry, dice: &mut Dice, fault: Fault) {
        match fault {
            Fault::RegistryRestarts => {
                registry.stop();
                // Mostly longer than the tries of a single request.
                thread::sleep(dice.milliseconds(0..5000));
                registry.resume();
                self.restarts.up();
            }
            Fault::ConnectionsAreCut => {
                self.phases_of_cuts.up();
                world.relay.set_cutting(true);
                for _ in 0..dice.from(1..6) {
                    thread::sleep(dice.milliseconds(50..700));
                    world.relay.cut_all(dice.percent(50));
                }
                world.relay.set_cutting(false);
            }
            Fault::Kill => {
                for _ in 0..dice.from(1..4) {
                    world.systemd.kill();
                    thread::sleep(dice.milliseconds(0..400));
                }
            }
            Fault::KillAndDamage => {
                let damaged = world.systemd.kill_and(|| world.options.cache.damage(dice));
                self.damaged.add(damaged);
            }
            Fault::DiskFills => {
                world.options.cache.fill(dice);
                if dice.percent(50) {
                    // Files that were removed have to be made again, without room for them.
                    thread::sleep(dice.milliseconds(0..500));
                    world.options.cache.wipe();
                    world.options.cache.fill(dice);
                }
                thread::sleep(dice.milliseconds(500..3000));
                world.options.cache.empty();
                self.full_disks.up();
            }
            Fault::ClockJumps => {
                self.moved_times.add(world.options.cache.move_times(dice));
                for _ in 0..dice.from(1..4) {
                    let days = i64::try_from(dice.from(0..8000)).unwrap() - 4000;
                    world.set_clock(days);
                    self.clock_jumps.up();
                    thread::sleep(dice.milliseconds(100..1000));
                }
                world.set_clock(0);
            }
        }
    }

    pub fn print(&self, world: &World) {
        row("restarts of the registry", self.restarts.get());
        row("times of cut connections", self.phases_of_cuts.get());
        row("… connections cut", world.relay.cuts());
        row("kills of the service", world.systemd.kills());
        row("cache files damaged while it was down", self.damaged.get());
        let how = format!("full disks ({:?})", world.options.cache.full);
        row(&how, self.full_disks.get());
        row(
            "jumps of the clock, for the service (libfaketime)",
            self.clock_jumps.get(),
        );
        row(
            "cache files moved into the past or future",
            self.moved_times.get(),
        );
    }

    /// A fault that never happened by chance was not tested.
    pub fn judge(&self, world: &World) {
        let log = world.log();
        let said = |line: &str| log.matches(line).count() as u64;
        let noticed = said("cannot be written") + said("cannot be read or written");
        let resumed = said("going on from there");
        row("bodies that broke off and were gone on with", resumed);
        for (count, what) in [
            (noticed, "the service never noticed that the disk is full"),
            (resumed, "nothing ever broke off in the middle"),
            (self.restarts.get(), "the registry was never restarted"),
            (world.relay.cuts(), "no connection was ever cut"),
            (world.systemd.kills(), "the service was never killed"),
            (self.full_disks.get(), "the disk was never full"),
            (self.clock_jumps.get(), "the clock never jumped"),
        ] {
            if count == 0 {
                world.report.defect(what.to_owned());
            }
        }
    }
}
