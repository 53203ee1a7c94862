"""stress-ng's file system class with its own verification, and fsx."""

import os
import re
import subprocess

from .world import HERE, program, run

# Stressors that say nothing about a volume, with the reason.
EXCLUDED = {
    "bind-mount": "mounts other file systems, writes nothing in the folder",
    "binderfs": "mounts another file system",
    "dup": "descriptors only",
    "eventfd": "descriptors only",
    "io": "sync(2) of the whole machine, which other tests share",
}


def stress_ng(world):
    """Every stressor of the class in turn, with --verify."""
    stress = program("stress-ng")
    names = re.search(r"stressors: (.*)", run(stress, "--class", "filesystem?", check=False).stdout).group(1).split()
    chosen = [n for n in names if n not in EXCLUDED]
    seconds = max(1, (45 if world.short else 600) // len(chosen))
    folder, failures, unsupported = world.folder / "stress", [], []
    folder.mkdir()
    for name in chosen:
        command = [stress, f"--{name}", "2", "-t", f"{seconds}s", "--verify", "--temp-path", folder, "--seed", str(world.seed)]
        try:
            # Some make files where they stand, whatever path they are given.
            done = run(*command, check=False, timeout=seconds + 120, cwd=folder)
        except subprocess.TimeoutExpired:
            failures.append(f"{name}: still runs two minutes after its time")
            break
        said = done.stdout + done.stderr
        # 3: no resources, 4: this system does not have what it wants to stress.
        if done.returncode in (3, 4) or "skipp" in said and "fail:" not in said:
            unsupported.append(name)
        elif done.returncode != 0 or "fail:" in said:
            failures.append(f"{name} (exit {done.returncode}): " + "; ".join(said.strip().splitlines()[-4:]))
    assert not failures, "\n".join(failures)
    world.check()
    return f"{len(chosen)} stressors, {seconds} s each; not supported here: {' '.join(unsupported) or 'none'}; left out: {' '.join(EXCLUDED)}"


def fsx(world):
    """fsx in its three profiles."""
    path = f"{os.path.dirname(program('fsx'))}:{os.environ['PATH']}"
    operations = 20_000 if world.short else 1_000_000
    done = run(HERE.parent / "fsx", "--folder", world.folder, operations, world.seed, check=False, timeout=7200, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    world.check()
    return f"{operations} operations with mmap, a tenth of it without and with holes"
