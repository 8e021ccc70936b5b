"""Train transcoders for any model that opens, from any text, and measure how good a set is.

:func:`train_transcoders` reads a corpus, collects the inputs and outputs of the MLPs in shards of
bounded size, trains sparse features on them, and writes a set in the published layout with its
report. :func:`evaluate_transcoders` measures any set, including published ones.
"""

from tracer.training.evaluate import evaluate_transcoders as evaluate_transcoders
from tracer.training.report import LayerReport as LayerReport
from tracer.training.report import TrainingReport as TrainingReport
from tracer.training.subject import open_model as open_model
from tracer.training.train import train_transcoders as train_transcoders
