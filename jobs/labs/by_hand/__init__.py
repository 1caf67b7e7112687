"""The first labs without TensorFlow and Horovod: NumPy, mpi4py, and the formulas of the workshop.

They show what the others leave to libraries: back-propagation, written out, and the one exchange that makes a
training distributed, an all-reduce of the gradients. They run wherever MPI does, and the tests hold the labs
to them: the same seed, data and start give the same losses.
"""

import os

from labs.labkit import world

# Here, before a program loads NumPy, whose BLAS reads it once: where ranks have more threads than CPUs, these
# wait for each other (50 steps of the network by 3 ranks on 2 CPUs took 28 s; with a thread each, 4 s).
os.environ["OMP_NUM_THREADS"] = str(world.threads(world.usable()))
