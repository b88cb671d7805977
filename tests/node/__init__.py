"""A whole Kubernetes node for tests: real pods on a plain Linux machine, without Docker.

``NodeCluster.start()`` (``tests.node.node_cluster``) gives a control plane, a kubelet, containerd and
cluster DNS in network namespaces of their own. It needs root and a few Debian packages
(``tests.node.packages``); ``python -m tests.node`` runs such a cluster for people.
"""
