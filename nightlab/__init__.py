"""nightlab: an autonomous research lab for neural architectures.

``agents`` is the researcher (goal, decide, propose, vet, judge, reflect; the graph and the
supervisor), ``sandbox`` is where foreign code runs, ``evals`` is trusted measurement,
``memory`` is the ledger, ``kernels`` are efficient ops that programs may import.
The words they share are in :mod:`nightlab.vocabulary`.
"""
