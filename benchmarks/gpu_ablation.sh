#!/usr/bin/env bash
# V1→V4 with three seeds each on one GPU, the data in its memory: gpu_ablation.sh DATA_ROOT OUT_FOLDER [EPOCHS]
# DATA_ROOT holds VOCdevkit with the lists trainaug and val. Copies records, tables and gallery to OUT_FOLDER.
set -euo pipefail
cd "$(dirname "$0")/.."
root=${1:?folder that holds VOCdevkit}; out=${2:?folder for the results}; epochs=${3:-60}
export PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH}
common="data=voc data.root=$root data.train=trainaug data.size=256 data.device_cache=true data.batch_size=16
        trainer=gpu trainer.max_epochs=$epochs runs_dir=$out/runs study=voc"
python3 train.py -m model=v1,v2,v3,v4 seed=0,1,2 $common 2>&1 | tee "$out/log.txt" || true
python3 -c 'import sys; from segstudy.cli.main import main; sys.argv = ["segstudy", "report", sys.argv[1]]; main()' "$out/runs/voc" | tee "$out/table.txt"
python3 - "$out" <<'PY'
import json, sys
from pathlib import Path
out = Path(sys.argv[1])
records = {p.parent.name: json.loads(p.read_text()) for p in sorted((out / "runs" / "voc").glob("*/record.json"))}
(out / "records.json").write_text(json.dumps(records, indent=1))
PY
cp "$out/runs/voc/gallery.png" "$out/" 2>/dev/null || true
rm -rf "$out/runs"  # checkpoints are too large to bring back
