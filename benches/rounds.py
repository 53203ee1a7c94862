"""How contestants are measured: a group of rows is prepared for each of them and then run round by round, in turn."""

from common import MIB, Failed, PeakMemory, TooLong
from program import say
from s3 import Server, passed


class Measure:
    """Puts what one contestant did in one round into the cells."""

    def __init__(self, cells, wanted, contestant, n):
        self.cells, self.wanted, self.contestant, self.n = cells, wanted, contestant, n
        self.slow = 0

    def wants(self, row):
        return row in self.wanted

    def skip(self, row, why):
        if self.wants(row):
            cell = self.cells[row, self.contestant.name]
            cell.error = cell.error or why

    def __call__(self, row, work, before=None):
        """The driver's answer, or None if it failed. A row that nobody wants is done all the same: others need its files."""
        contestant, cell = self.contestant, self.cells[row, self.contestant.name]
        wanted = self.wants(row)
        if not wanted and before:
            return None
        if wanted:
            contestant.settle()
        try:
            if before:
                before()
            counted = contestant.proxy.stats() if contestant.proxy else None
            with PeakMemory(contestant.pids()) as memory:
                sample = work()
            if not sample["operations"]:
                raise Failed("not one operation in the time")
        except Failed as e:
            if isinstance(e, TooLong):
                self.slow += 1
            cell.error = cell.error or str(e)
            return None
        if not wanted:
            return sample
        sample |= {"peak_rss": memory.rss or None, "peak_anonymous": memory.anonymous or None}
        if counted:
            contestant.settle()
            sample |= passed(counted, contestant.proxy.stats())
            amount = sample["bytes"] / MIB if cell.row.unit == "MiB" else sample["operations"]
            sample["requests_per_op"] = sum(sample["requests"].values()) / amount
        if self.n >= 0:
            cell.samples.append(sample)
        return sample


def start_server(world, kinds):
    """The S3 server, if one of them needs it and it is there."""
    if not any(kind.remote for kind in kinds):
        return None
    try:
        return Server(world)
    except Failed as e:
        say(f"  no S3 server: {e}")
        return None


def start(everyone, rows, cells):
    """Those of the contestants that could be started; of the others, the cells say why not."""
    running = []
    for contestant in everyone:
        say(f"  starting {contestant.title}")
        try:
            contestant.start()
            running.append(contestant)
        except (Failed, OSError) as e:
            say(f"    {e}")
            for row in rows:
                cells[row.key, contestant.name].error = f"did not start: {e}"
    return running


def run_group(bench, group, everyone, wanted, cells, rounds, warm_up=True):
    """Prepares a group for every contestant, then runs its rounds in turn; one that warms up is discarded."""
    rows = [r.key for r in group.rows]

    def fail(contestant, error):
        for row in rows:
            cell = cells[row, contestant.name]
            cell.error = cell.error or str(error)

    runners = []
    for contestant in everyone:
        try:
            group.prepare(bench, contestant)
            contestant.settle()
            runners.append(contestant)
        except (Failed, OSError) as e:
            say(f"    {contestant.title}: {e}")
            fail(contestant, f"preparing: {e}")
    slow = {c.name: 0 for c in runners}
    for n in range(-1 if warm_up else 0, rounds):
        say(f"  {group.key}: {'warm-up' if n < 0 else f'round {n + 1} of {rounds}'}")
        turn = max(n, 0) % len(runners) if runners else 0
        for contestant in runners[turn:] + runners[:turn]:
            # One that hangs again and again would hold up everybody.
            if slow[contestant.name] >= 2:
                continue
            measure = Measure(cells, wanted, contestant, n)
            before = {row: cells[row, contestant.name].error for row in rows}
            try:
                group.round(bench, contestant, n, measure)
            except (Failed, OSError) as e:
                measure.slow += isinstance(e, TooLong)
                fail(contestant, e)
            slow[contestant.name] += measure.slow
            for row in rows:
                error = cells[row, contestant.name].error
                if row in wanted and error and not before[row]:
                    say(f"    {contestant.title}, {row}: {error}")
