#!/usr/bin/env python3
"""Checks and measures the program on a machine with a GPU, beside PyTorch. Prints tables; writes all figures as JSON.

    python3 scripts/gpu_check.py --sweep PROGRAM [--parts check,steps,packing] [--minutes M] [--output FILE]

check     every op and short trainings of every method on the GPU against the processor, in f32, tf32 and bf16, and 300
          steps of MCSD (`sweep bench --check`)
steps     times of whole steps, of the extraction of features, and of a training that makes its batches: ours in f32, tf32
          and bf16; PyTorch, where it has the case, eager in f32, eager with channels-last in tf32 and bf16, and
          torch.compile with channels-last in bf16
packing   steps a second of 1, 2, 4, 8 and 16 programs that train at once, and their sum

Needs the program (scripts/build_cuda.sh), its CUDA libraries (LD_LIBRARY_PATH; those of an installed PyTorch are found by
themselves), and for `steps` PyTorch. Each part is bounded in time; what was not reached is said. No part changes anything
but its output file.
"""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Cases of `sweep bench`: name, batch, side, whether PyTorch has it.
CASES = [
    ("mcsd", 8, 256, True),
    ("diffusion-256", 4, 256, True),
    ("extraction", 8, 256, True),
    ("mcsd-loading", 8, 256, False),
    ("unet", 8, 256, True),
    ("diffusion", 8, 256, True),
    ("unet-inference", 8, 256, True),
    ("diffusion-inference", 8, 256, True),
]
OURS = ["f32", "tf32", "bf16"]
# name: arguments of bench_pytorch.py
THEIRS = {
    "eager f32": ["--precision", "f32"],
    "eager tf32 last": ["--precision", "tf32", "--channels-last"],
    "eager bf16 last": ["--precision", "bf16", "--channels-last"],
    "compiled bf16 last": ["--precision", "bf16", "--channels-last", "--compile"],
}


def libraries():
    """LD_LIBRARY_PATH with the folders of CUDA's libraries that an installed PyTorch brings along."""
    known = os.environ.get("LD_LIBRARY_PATH", "")
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(p) for p in spec.submodule_search_locations] if spec else []
    found = sorted({str(so.parent) for root in roots for so in root.glob("*/lib/lib*.so.*")})
    return ":".join([p for p in [known] if p] + found)


def gpu():
    """What nvidia-smi says of the GPU and its driver; nothing where there is none."""
    fields = ["name", "driver_version", "memory.total", "clocks.max.sm", "power.limit"]
    command = ["nvidia-smi", "--query-gpu=" + ",".join(fields), "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(fields, (field.strip() for field in done.stdout.split(","))))


class Check:
    def __init__(self, args):
        self.args = args
        self.end = time.monotonic() + 60 * args.minutes
        self.env = {**os.environ, "LD_LIBRARY_PATH": libraries()}
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes")
        self.found = {"date": now, "machine": platform.node(), "gpu": gpu(), "left_out": []}

    def left(self):
        return self.end - time.monotonic()

    def run(self, what, command, seconds):
        """The JSON that a command writes; nothing, and a word, where it fails or there is no time for it."""
        seconds = min(seconds, self.left())
        if seconds < 5:
            self.found["left_out"].append(what)
            return None
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=self.env, timeout=seconds)
        except subprocess.TimeoutExpired:
            self.found["left_out"].append(f"{what}: longer than {seconds:.0f} s")
            return None
        try:
            return json.loads(done.stdout)
        except ValueError:
            words = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()
            self.found["left_out"].append(f"{what}: {' | '.join(words[-3:])}")
            print(f"  {what} failed: {' | '.join(words[-3:])}", flush=True)
            return None

    def sweep(self, *arguments):
        return [self.args.sweep, *map(str, arguments)]

    def save(self):
        if self.args.output:
            Path(self.args.output).write_text(json.dumps(self.found, indent=1) + "\n")

    def doctor(self):
        print(f"{self.found['date']}, {self.found['machine']}: {self.found['gpu'] or 'nvidia-smi tells of no GPU'}")
        self.found["doctor"] = self.run("doctor", self.sweep("doctor", "--json"), 60)
        for check in (self.found["doctor"] or {}).get("checks", []):
            if check["name"] in ("program", "processor", "devices"):
                print(f"{check['name']}: {check['found']}" + (f" -> {check['remedy']}" if check["remedy"] else ""))

    def check(self):
        """f32 with the long training last of all; the others with what time is left."""
        results = self.found["check"] = {}
        for precision, seconds in (("f32", 150), ("bf16", 60), ("tf32", 60)):
            command = self.sweep("bench", "--check", "--device", "cuda", "--precision", precision, "--json")
            found = self.run(f"check {precision}", command + ["--seconds", str(seconds)], seconds + 150)
            if not found:
                continue
            results[precision] = found
            self.save()
            worst = sorted(found["ops"], key=lambda op: -max(far(op["value"]), far(op["gradient"])))[:5]
            print(f"\ncheck {precision}: {'ok' if found['ok'] else 'FAR'}, {len(found['ops'])} ops; the worst:")
            for op in worst:
                print(f"  {op['op']:36} value {far(op['value']):.1e}, gradients {far(op['gradient']):.1e}")
            for one in found["trainings"]:
                pairs = list(zip(one["expected"], one["found"]))
                apart = [abs(a - b) / max(abs(a), 1e-3) if b is not None else float("inf") for a, b in pairs]
                last = pairs[-1]
                print(f"  {one['training']:36} {len(pairs):4} steps, apart {max(apart[:20]):.1e} in the first 20, "
                      f"{max(apart):.1e} in all; last {last[0]:.4f} and {last[1] or float('nan'):.4f}")
            print("  left out: " + (", ".join(found["left_out"]) or "nothing"), flush=True)

    def steps(self):
        rows = self.found["steps"] = []
        seconds = self.args.seconds
        for name, batch, side, both in CASES:
            row = {"case": name, "batch": batch, "size": side, "ours": {}, "pytorch": {}}
            rows.append(row)
            sizes = ["--batch", str(batch), "--size", str(side), "--seconds", str(seconds)]
            for precision in OURS:
                command = self.sweep("bench", name, "--child", "--device", "cuda:0", "--precision", precision)
                row["ours"][precision] = self.run(f"{name} {batch}x{side} ours {precision}", command + sizes, 90)
            for kind, options in THEIRS.items() if both else ():
                command = [sys.executable, str(HERE / "bench_pytorch.py"), "--child", name, "--device", "cuda"]
                command += ["--threads-child", "4", *sizes, *options]
                limit = 150 if "--compile" in options else 90
                row["pytorch"][kind] = self.run(f"{name} {batch}x{side} PyTorch {kind}", command, limit)
            times = {**{f"ours {k}": v for k, v in row["ours"].items()}, **row["pytorch"]}
            shown = [f"{kind} {one['median'] * 1e3:.2f}" for kind, one in times.items() if one]
            print(f"{name} {batch}x{side}², ms a step: " + ", ".join(shown), flush=True)
            self.save()
        self.found["rates"] = {}
        for precision in OURS:
            command = self.sweep("bench", "unet-inference", "--batch", 1, "--size", 32, "--seconds", 0.1, "--json",
                                 "--device", "cuda", "--precision", precision)
            found = self.run(f"rates {precision}", command, 60)
            if found:
                self.found["rates"][precision] = found["rates"]
                print(f"{precision}: {found['rates']['flops'] / 1e12:.0f} TFLOP/s, {found['rates']['bytes'] / 1e12:.2f} TB/s")

    def packing(self):
        """Programs at once, each its own process, as `sweep run --workers N` starts them."""
        rows = self.found["packing"] = []
        seconds = max(self.args.seconds, 6)
        for count in (1, 2, 4, 8, 16):
            if self.left() < seconds + 30:
                self.found["left_out"].append(f"packing {count}")
                continue
            command = self.sweep("bench", "unet", "--child", "--batch", 8, "--size", 256, "--seconds", seconds,
                                 "--device", "cuda:0", "--precision", "bf16")
            env = {**self.env, "RAYON_NUM_THREADS": "1"}
            running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
                       for _ in range(count)]
            found = []
            for one in running:
                try:
                    found.append(json.loads(one.communicate(timeout=seconds + 60)[0]))
                except (ValueError, subprocess.TimeoutExpired):
                    one.kill()
            rate = sum(1 / one["median"] for one in found)
            rows.append({"programs": count, "finished": len(found), "steps_a_second": rate})
            print(f"packing: {count:2} programs, {len(found)} finished, {rate:.0f} steps/s in all", flush=True)
            self.save()


def far(value):
    """JSON has no infinity."""
    return float("inf") if value is None else value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", required=True, help="the program")
    parser.add_argument("--parts", default="check,steps,packing")
    parser.add_argument("--minutes", type=float, default=9.0, help="in all")
    parser.add_argument("--seconds", type=float, default=2.0, help="that a step is timed")
    parser.add_argument("--output", help="file for all figures")
    args = parser.parse_args()
    parts = args.parts.split(",")
    unknown = [part for part in parts if part not in ("check", "steps", "packing")]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}")
    check = Check(args)
    check.doctor()
    for part in parts:
        getattr(check, part)()
        check.save()
    print("\nleft out: " + ("; ".join(check.found["left_out"]) or "nothing"))
    if not args.output:
        print(json.dumps(check.found))


if __name__ == "__main__":
    main()
