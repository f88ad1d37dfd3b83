"""Training runs: data sets, the loop, checkpoints, evaluation and export of the library's networks.

`cnnvjp.train` holds training steps, for a loop of your own; this subpackage holds runs: what
`scripts/train.py` and `python -m cnnvjp.training` do, from a data set to a folder of results.

```python
from pathlib import Path

from cnnvjp.training import Config, evaluate, export_network, load_run, predict, train_network

folder = train_network(Config(data="digits", model="textbook", epochs=2, out=Path("runs/first")))
run = load_run(folder, best=True)
evaluation = evaluate(run)
evaluation.figures["accuracy"]
probabilities = predict(run, evaluation.part.images)  # from uint8, (N, height, width, C)
Path("network.jax").write_bytes(export_network(run).content)
```

A stopped run resumes from its last checkpoint, and gives bit for bit the same results as a run
that was not stopped:

```python
import dataclasses

from cnnvjp.training import saved_config

train_network(dataclasses.replace(saved_config(folder), resume=folder, epochs=3))
```

It needs the libraries of the extra `train`, which `import cnnvjp` does not import. The modules:

* `config`: the options of a run; `setup`: what they make;
* `data`, `formats`: the data sets, and the readers of their files;
* `batches`: order and augmentation; `tasks`: networks with their losses;
* `devices`, `signals`: devices and processes, and the signals that stop them;
* `loop`: the training loop; `files`, `checkpoints`, `reports`, `pictures`: what it leaves;
* `runs`, `evaluation`, `export`: trained networks; `picture_files`: pictures for them;
* `commands`: the command lines; `huge_pages`: memory for them.
"""

import importlib.util

_missing = [
    name
    for name in ("grain", "matplotlib", "orbax", "sklearn", "tensorboardX", "tqdm", "tyro")
    if importlib.util.find_spec(name) is None
]
if _missing:
    raise ModuleNotFoundError(
        f"cnnvjp.training needs {', '.join(_missing)}: pip install 'cnnvjp[train]'"
    )

from cnnvjp.training.checkpoints import Checkpoints
from cnnvjp.training.config import Config, saved_config
from cnnvjp.training.data import DataSet, load_data, statistics
from cnnvjp.training.errors import StoppedError, UsageError
from cnnvjp.training.evaluation import Evaluation, evaluate, write_predictions
from cnnvjp.training.export import Export, export_network
from cnnvjp.training.formats import Part
from cnnvjp.training.loop import train_network
from cnnvjp.training.picture_files import read_picture
from cnnvjp.training.pictures import draw_results
from cnnvjp.training.runs import Run, best_epoch, load_run, predict, raw_outputs
from cnnvjp.training.tasks import Task, make_task

__all__ = [
    "Checkpoints",
    "Config",
    "DataSet",
    "Evaluation",
    "Export",
    "Part",
    "Run",
    "StoppedError",
    "Task",
    "UsageError",
    "best_epoch",
    "draw_results",
    "evaluate",
    "export_network",
    "load_data",
    "load_run",
    "make_task",
    "predict",
    "raw_outputs",
    "read_picture",
    "saved_config",
    "statistics",
    "train_network",
    "write_predictions",
]
