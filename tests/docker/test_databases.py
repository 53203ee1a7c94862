"""PostgreSQL 15 and Redis, as Debian ships them, with their data folders on a volume, unchanged."""

from harness.processes import wait_until

PG = "/var/lib/postgresql/data"


def postgres(engine, image, volume, cname):
    """A PostgreSQL that initialises its folder when it is empty, as the official image does."""
    script = f"""
        set -e
        install -d -o postgres -g postgres -m 0700 {PG}
        cd /
        [ -s {PG}/PG_VERSION ] || setpriv --reuid postgres --regid postgres --clear-groups initdb -D {PG} >/dev/null
        exec setpriv --reuid postgres --regid postgres --clear-groups postgres -D {PG} -c listen_addresses= -c unix_socket_directories=/tmp
    """
    engine.docker("run", "-d", "--name", cname, "-v", f"{volume}:{PG}", image, "sh", "-c", script)
    wait_until("PostgreSQL answers", 120, lambda: engine.docker("exec", cname, "psql", "-h", "/tmp", "-U", "postgres", "-c", "select 1", check=False).returncode == 0, every=0.5)


def sql(engine, cname, *statements):
    args = [x for s in statements for x in ("-c", s)]
    return engine.sh("exec", cname, "psql", "-h", "/tmp", "-U", "postgres", "-At", "-v", "ON_ERROR_STOP=1", *args, timeout=300)


def test_postgresql_keeps_its_tables_through_kill_and_replacement(engine, orlop, servers_image, volume, name):
    first, second = f"{name}-1", f"{name}-2"
    postgres(engine, servers_image, volume, first)
    sql(
        engine,
        first,
        "create table t as select g as id, repeat(md5(g::text), 8) as v from generate_series(1, 20000) g",
        "create index on t (v)",
        "checkpoint",
        "update t set v = 'x' || id where id % 3 = 0",
        "delete from t where id % 5 = 0",
        "vacuum t",
    )
    before = sql(engine, first, "select count(*), md5(string_agg(id || v, ',' order by id)) from t")
    assert before.startswith("16000|")
    engine.docker("kill", first)
    engine.docker("rm", first)
    postgres(engine, servers_image, volume, second)
    assert sql(engine, second, "select count(*), md5(string_agg(id || v, ',' order by id)) from t") == before
    engine.exec(second, "setpriv --reuid postgres --regid postgres --clear-groups pg_ctl -D " + PG + " stop -m fast -w", check=False)
    wait_until("PostgreSQL stopped", 60, lambda: not engine.inspect("container", second)["State"]["Running"])
    check = engine.docker("run", "--rm", "-u", "postgres", "-v", f"{volume}:{PG}", servers_image, "/usr/lib/postgresql/15/bin/pg_controldata", PG)
    assert "shut down" in check.stdout


def test_pgbench_runs_on_it(engine, orlop, servers_image, volume, name):
    postgres(engine, servers_image, volume, name)
    bench = "/usr/lib/postgresql/15/bin/pgbench -h /tmp -U postgres postgres"
    engine.exec(name, f"{bench} -i -s 2 -q 2>/dev/null", timeout=300)
    out = engine.exec(name, f"{bench} -c 4 -j 2 -T 5 2>/dev/null", timeout=120)
    assert "number of failed transactions: 0" in out
    assert sql(engine, name, "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)") == "t"


def redis(engine, image, volume, cname):
    engine.docker("run", "-d", "--name", cname, "-v", f"{volume}:/data", "-w", "/data", image, "redis-server", "--appendonly", "yes", "--appendfsync", "always", "--save", "1 1")
    wait_until("Redis answers", 60, lambda: engine.docker("exec", cname, "redis-cli", "ping", check=False).stdout.strip() == "PONG", every=0.3)


def test_redis_keeps_its_keys_through_kill_and_replacement(engine, orlop, servers_image, volume, name):
    first, second = f"{name}-1", f"{name}-2"
    redis(engine, servers_image, volume, first)
    load = "for i in $(seq 1 3000); do echo SET key:$i value-$i; done | redis-cli --pipe"
    assert "errors: 0, replies: 3000" in engine.exec(first, load)
    engine.docker("exec", first, "redis-cli", "bgrewriteaof")
    engine.docker("exec", first, "redis-cli", "set", "last", "word")
    engine.docker("kill", first)
    engine.docker("rm", first)
    redis(engine, servers_image, volume, second)
    assert engine.sh("exec", second, "redis-cli", "dbsize") == "3001"
    assert engine.sh("exec", second, "redis-cli", "get", "key:2999") == "value-2999"
    assert engine.sh("exec", second, "redis-cli", "get", "last") == "word"
