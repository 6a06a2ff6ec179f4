#!/usr/bin/env bash
# VLMGuard-R1's experiment, as far as its paper tells it (arXiv 2504.12661): data → synth → train → eval, every step a command.
# Nothing here was run by us on these GPUs: times and memory are estimates from the number of calls and of parameters.
#
#   runs/reproduce.sh check          what is missing before anything is paid for
#   runs/reproduce.sh synth          about 10 K rows, teacher InternVL2.5-38B: two A100 80 GB or H100 (76 GB of weights), 6 to 10 h
#   runs/reproduce.sh train          Qwen2-VL-7B-Instruct, supervised: one A100 80 GB with LoRA (about 40 GB), 3 to 5 h
#   runs/reproduce.sh eval           targets one after the other: a 7B model on one 24 GB GPU (17 GB), 1 h a target and defence;
#                                    Qwen2.5-VL-72B on four 80 GB GPUs (145 GB of weights), 3 h a defence
#
# You serve the models (vLLM, SGLang, …): the teacher and its target where recipes/paper.yaml says, and at these addresses
#   TARGETS=http://127.0.0.1:8001/v1 the paper's VLMs, as far as known, by their hub names · REWRITER=http://127.0.0.1:8002/v1 after train
#   JUDGE=endpoint:https://api.openai.com/v1#gpt-4o with its key in VLMGUARD_API_KEY · SETS=runs/out/sets the downloaded benchmarks
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(dirname "${PYTHON:-.venv/bin/python}")
out=${OUT:-runs/out/paper}
sets=${SETS:-runs/out/sets}
targets=${TARGETS:-http://127.0.0.1:8001/v1}
rewriter=${REWRITER:-http://127.0.0.1:8002/v1}
judge=${JUDGE:-endpoint:https://api.openai.com/v1#gpt-4o}
shard=${SHARD:-1/1} # i/n: give every part an OUT of its own, then: vlmguard eval merge OUT PART…

evaluate() { # the rest: further options of `vlmguard eval run`
    "$bin/vlmguard" eval run --out "$out/eval" --paper-targets "$targets" --shard "$shard" \
        --benchmark "siuo-gen:$sets/SIUO" --benchmark "mm-safetybench:$sets/MM-SafetyBench" --benchmark "vlguard:$sets/VLGuard" \
        --benchmark "figstep/safebench:$sets/FigStep" --benchmark "xstest:$sets/XSTest" --benchmark "mossbench:$sets/MOSSBench" \
        --benchmark "mm-vet:$sets/MM-Vet" \
        --judge "paper:$judge" --judge "three-way:$judge" --judge refusal --judge "reference:$judge" \
        --defence none --defence "vlmguard:endpoint:$rewriter#vlmguard-rewriter" --defence vlmguard:embedded \
        --defence safety-prompt --defence figstep --defence ecso --defence "mllm-protector:$judge" --defence "eta:$judge" \
        --concurrency 256 "$@"
}

case "${1:-}" in
check)
    "$bin/vlmguard" synth check recipes/paper.yaml || true
    evaluate --estimate
    ;;
synth)
    "$bin/vlmguard" synth run recipes/paper.yaml --out "$out/data"
    "$bin/vlmguard" synth trl recipes/paper.yaml --out "$out/data"
    ;;
train)
    "$bin/vlmguard" train sft recipes/train/qwen2-vl-7b.yaml --dataset "$out/data" --out "$out/rewriter" || [ $? = 3 ] # 3: some rows do not fit
    "$bin/vlmguard" train merge "$out/rewriter" --out "$out/rewriter-merged" # prints the vLLM command that serves it at $REWRITER
    ;;
eval)
    # MLLM-Protector and ETA get the judge in the place of their own trained parts: their rows carry a *, and are not the paper's.
    evaluate
    ;;
*)
    sed -n '2,13p' "$0"
    exit 2
    ;;
esac
