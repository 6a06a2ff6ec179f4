"""An adapter and its base become whole weights, which any server takes: ``vlmguard train merge RUN --out FOLDER``."""

from __future__ import annotations

import shutil
from pathlib import Path

from vlmguard.errors import InputError, MissingExtraError, ModelError, TrainError
from vlmguard.models.hub import check_known
from vlmguard.models.local import resolve
from vlmguard.train.run import MODEL, publish, staged

_ADAPTER = "adapter_config.json"


def merge(run: Path, out: Path) -> Path:
    """Writes base + adapter as one model, with the processor and chat template that it was trained with.

    Args:
        run: folder of a finished run, or of an adapter that names its base.
        out: where the model goes; it must not exist, or be empty.

    Raises:
        InputError: there is no adapter in ``run`` that names its base and fits it, or something in ``out``.
        MissingExtraError: the extra ``local`` is not installed.
        ModelError: the run is not finished, or its base cannot be had.
        TrainError: the disk does not take it; then nothing is there.
    """
    if not run.is_dir():
        raise InputError(f"{run} is no folder of a training run")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something already: give another --out")
    try:
        base, adapter = resolve(str(run), None)
    except ModelError as error:
        named = next((at for at in (run, run / MODEL) if (at / _ADAPTER).is_file()), None)
        if named is None:
            raise
        raise InputError(
            f"the base of the adapter in {named} is not named, or gone: put its folder or hub id into base_model_name_or_path of"
            f" {named / _ADAPTER}"
        ) from error
    if adapter is None:
        raise InputError(f"{run} holds whole weights, which need no merging: serve {base}")
    check_known(base)
    try:
        from peft import PeftModel
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ImportError as error:
        raise MissingExtraError("merging", "local") from error
    try:
        model = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
        whole = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        processor = AutoProcessor.from_pretrained(adapter)
    except Exception as error:  # loaders raise nearly anything
        raise InputError(f"{adapter} cannot be put into {base} ({type(error).__name__}: {error})") from error
    fresh = staged(out)
    try:
        whole.save_pretrained(fresh)
        processor.save_pretrained(fresh)
        publish(fresh, out)
    except Exception as error:  # the disk's errors come in a dress of each library's own
        shutil.rmtree(fresh, ignore_errors=True)
        raise TrainError(
            f"the merged model could not be written to {out} ({error}), and nothing of it is kept: free space, merge again"
        ) from error
    return out
