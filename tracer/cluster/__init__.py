"""Connect to a Ray cluster and run workers there. This room knows processes, not models."""

from tracer.cluster.ray_cluster import ACTORS as ACTORS
from tracer.cluster.ray_cluster import CORES as CORES
from tracer.cluster.ray_cluster import VARIABLE as VARIABLE
from tracer.cluster.ray_cluster import Cluster as Cluster
from tracer.cluster.ray_cluster import WorkerLost as WorkerLost
from tracer.cluster.ray_cluster import calling as calling
from tracer.cluster.ray_cluster import connect as connect
