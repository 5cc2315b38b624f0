"""What a result file of make bench holds: statistics and the machine in words, no raw timings, no
host name, no commit.
"""

import torch


def pytest_benchmark_update_machine_info(config, machine_info):
    """Keep what numbers depend on, and add torch and its threads."""
    cpu = machine_info["cpu"]
    kept = {name: machine_info[name] for name in ("machine", "python_version", "system")}
    machine_info.clear()
    said = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    machine_info.update(kept, cpu={"brand_raw": cpu.get("brand_raw", "")}, torch=said)


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Keep what a comparison reads."""
    output_json["commit_info"] = {}
    for each in output_json["benchmarks"]:
        stats = {name: each["stats"][name] for name in ("min", "q1", "median", "q3", "rounds")}
        kept = {name: each[name] for name in ("group", "fullname", "params", "extra_info")}
        each.clear()
        each.update(kept, stats=stats)
