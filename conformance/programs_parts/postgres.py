"""PostgreSQL 15 with its data on a volume, under pgbench and a client that keeps count of what was committed.

After each kill or power failure it must start by itself and: every transaction that the client saw committed is there,
pgbench's balances equal its history, pg_amcheck finds heap and indexes whole, pg_checksums finds no damaged page.
"""

import contextlib
import glob
import os
import pwd
import random
import signal
import subprocess
import threading
import time

from .world import Skipped, alive, kill, run, wait_until
from harness.processes import children_of

USER = "postgres"
SETTINGS = """
listen_addresses = ''
shared_buffers = 16MB
max_wal_size = 64MB
checkpoint_timeout = 30s
log_min_messages = warning
"""


def owner():
    try:
        return pwd.getpwnam(USER).pw_uid
    except KeyError:
        raise Skipped("PostgreSQL 15 is not installed (apt-get install postgresql-15)") from None


class Server:
    """A PostgreSQL on the volume."""

    def __init__(self, world):
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
        if not found:
            raise Skipped("PostgreSQL 15 is not installed (apt-get install postgresql-15)")
        self.bin, self.world, self.data = found[0], world, world.folder / "data"
        # The socket and the log are not on the volume: they tell what happened when that is gone.
        self.sockets = world.base / "postgres"
        self.sockets.mkdir()
        os.chown(self.sockets, owner(), owner())
        self.process = None
        self.tool("initdb", "--data-checksums", "--no-locale", "-E", "UTF8", "-A", "trust", "-U", USER, "-D", self.data)
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as f:
            f.write(f"{SETTINGS}unix_socket_directories = '{self.sockets}'\n")
        self.start()
        self.client("pgbench", "-i", "-q", "-s", "2", USER)
        self.sql("CREATE TABLE seen (client int, n bigint, filler text, PRIMARY KEY (client, n))")

    def _as_user(self, name, args):
        return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", f"{self.bin}/{name}", *map(str, args)]

    def tool(self, name, *args, **kw):
        return run(*self._as_user(name, args), timeout=300, cwd="/", **kw)

    def client(self, name, *args, **kw):
        return self.tool(name, "-h", self.sockets, "-U", USER, *args, **kw)

    def sql(self, text):
        return self.client("psql", "-XAtqc", text, USER).stdout.strip()

    def start(self):
        with open(self.sockets / "log", "ab") as log:
            command = self._as_user("postgres", ["-D", self.data])
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True)
        # Recovery ends by itself, whatever was there when it died.
        try:
            wait_until("PostgreSQL answers", 180, self._ready, every=0.1)
        except TimeoutError as e:
            raise AssertionError(f"{e}\n{self.log()}") from e

    def _ready(self):
        assert self.process.poll() is None, "PostgreSQL ended while starting:\n" + self.log()
        return self.client("pg_isready", "-q", check=False).returncode == 0

    def log(self):
        return (self.sockets / "log").read_text(errors="replace")[-4000:]

    def kill(self):
        """kill -9 of all its processes at once."""
        pids = [self.process.pid, *children_of(self.process.pid)]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(60)
        wait_until("PostgreSQL gone", 60, lambda: not [p for p in pids if alive(p)])

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(120) == 0, "PostgreSQL did not stop cleanly:\n" + self.log()


class Load:
    """pgbench, and clients that insert one row a transaction and note each one that was acknowledged."""

    def __init__(self, server, acknowledged):
        self.acknowledged, self.clients = acknowledged, []
        command = server._as_user("pgbench", ["-n", "-c", "4", "-j", "1", "-T", "600", "-h", server.sockets, "-U", USER, USER])
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
        self.bench = subprocess.Popen(command, **quiet)
        for number in acknowledged:
            psql = server._as_user("psql", ["-XAtq", "-h", server.sockets, "-U", USER, USER])
            client = subprocess.Popen(psql, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd="/")
            thread = threading.Thread(target=self._insert, args=(client, number), daemon=True)
            thread.start()
            self.clients.append((client, thread))

    def _insert(self, client, number):
        n = self.acknowledged[number]
        try:
            while True:
                n += 1
                # One that was not acknowledged may have been committed all the same, in an earlier round.
                client.stdin.write(
                    f"INSERT INTO seen VALUES ({number}, {n}, repeat(md5('{number}-{n}'), 20))"
                    f" ON CONFLICT (client, n) DO UPDATE SET filler = excluded.filler RETURNING n;\n"
                )
                client.stdin.flush()
                line = client.stdout.readline()
                if line.strip() != str(n):
                    return
                self.acknowledged[number] = n
        except (BrokenPipeError, ValueError):
            return

    def running(self):
        return self.bench.poll() is None and all(c.poll() is None for c, _ in self.clients)

    def end(self):
        for process in [self.bench, *(c for c, _ in self.clients)]:
            process.kill()
            process.wait()
        for client, thread in self.clients:
            thread.join(30)
            # What it did not take any more is still to be written, to a process that is gone.
            with contextlib.suppress(BrokenPipeError):
                client.stdin.close()
            client.stdout.close()


def consistent(server, acknowledged, what):
    """Everything that a user of this database was promised. Leaves it running."""
    missing = {}
    for client, n in acknowledged.items():
        # Rows are numbered without gaps, so that a count finds a lost one in the middle too.
        there = server.sql(f"SELECT count(*) FROM seen WHERE client = {client} AND n <= {n} AND filler = repeat(md5(client || '-' || n), 20)")
        if int(there) != n:
            missing[client] = (n, int(there))
    assert not missing, f"{what}: acknowledged and not there (client: acknowledged, found): {missing}"
    sums = server.sql(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),"
        " (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"
    ).split("|")
    assert len(set(sums)) == 1, f"{what}: balances of accounts, tellers, branches and the history differ: {sums}"
    server.client("pg_amcheck", "--install-missing", "--heapallindexed", "-d", USER)
    server.stop()
    server.tool("pg_checksums", "--check", "-D", server.data)
    server.start()


def _rounds(world, end_of_round):
    server = Server(world)
    acknowledged = {1: 0, 2: 0}
    randomness = random.Random(world.seed)
    for number in range(world.rounds):
        what = f"round {number + 1}, seed {world.seed}"
        load = Load(server, acknowledged)
        try:
            before = sum(acknowledged.values())
            wait_until("the first commits", 60, lambda: sum(acknowledged.values()) > before + 5)
            time.sleep(randomness.uniform(0.2, 2.5))
            end_of_round(world, server, load, number, randomness, what)
        finally:
            load.end()
        server.start()
        consistent(server, acknowledged, what)
    history = server.sql("SELECT count(*) FROM pgbench_history")
    server.stop()
    world.check()
    return f"{world.rounds} rounds, {sum(acknowledged.values())} acknowledged rows, {history} transactions of pgbench"


def killed(world):
    """kill -9 of PostgreSQL; in every other round the worker is killed before, under load, and again with it."""

    def end_of_round(world, server, load, number, randomness, what):
        if number % 2:
            world.kill_worker()
            # The database must not notice.
            time.sleep(randomness.uniform(1, 2.5))
            assert load.running(), f"{what}: a client failed when the worker was killed:\n{server.log()}"
            done = sum(load.acknowledged.values())
            wait_until(f"{what}: commits go on after the worker was killed", 30, lambda: sum(load.acknowledged.values()) > done)
            kill(world.worker())
        server.kill()

    return _rounds(world, end_of_round)


def power_failed(world):
    """The power fails under load."""
    lost = []

    def end_of_round(world, server, _load, _number, _randomness, _what):
        server.kill()
        lost.append(world.power_failure())

    told = _rounds(world, end_of_round)
    assert any(lost), "no cut lost anything: these were no power failures"
    return f"{told}; a file that nobody synced was lost in {sum(lost)} of them"
