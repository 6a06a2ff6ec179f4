#!/usr/bin/env bash
# The whole path offline on recipes/sample: data → synth → train → eval, in minutes and without a GPU. Writes runs/out/sample/:
#   data/ the dataset · eval/report.html the evaluation · metrics.json what was measured
# Exit code 1 when fewer than 95 % of the rewriter's traces are valid.   PYTHON=… names another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
sample=recipes/sample
out=${OUT:-runs/out/sample}
bin=$(dirname "${PYTHON:-.venv/bin/python}")
mkdir -p "$out"

echo "== data → synth (scripted teacher, target and judge): about 5 s"
"$bin/vlmguard" synth run "$sample/recipe.yaml" --out "$out/data"
"$bin/vlmguard" synth trl "$sample/recipe.yaml" --out "$out/data"

echo "== train"
rewriter="scripted:$sample/rewriter.jsonl"
echo "Left out: the wheel brings no base VLM, and a real one needs a GPU. The scripted rewriter of $sample stands in for a trained one, and"
echo "metrics.json says so. With a base: vlmguard train sft recipes/train/qwen2-vl-7b.yaml --dataset $out/data --base MODEL --out RUN"

echo "== eval: about 20 s"
code=0
"$bin/vlmguard" eval run --out "$out/eval" --benchmark "jsonl:$sample/rows.jsonl" --target "sample=scripted:$sample/target.jsonl" \
    --judge "three-way:scripted:$sample/judge.jsonl" --judge refusal \
    --defence none --defence "vlmguard:$rewriter" --defence vlmguard:embedded --defence safety-prompt || code=$?
# 3: some rows are errors (the scripted judge knows no verdict on the guard's own notice of a block). They are counted in the report.
[ "$code" = 0 ] || [ "$code" = 3 ] || exit "$code"

echo "== metrics"
"$bin/python" runs/sample_metrics.py --data "$out/data" --evaluation "$out/eval" --rows "$sample/rows.jsonl" \
    --rewriter "$rewriter" --out "$out/metrics.json"
echo "$out/metrics.json · $out/eval/report.html"
