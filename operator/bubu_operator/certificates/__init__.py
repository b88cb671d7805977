"""The built-in authority of the webhook's certificates: issuing, and when to rotate; no Kubernetes here.

::

    lifetimes  how long things live, in one place
    issuing    make an authority, sign a leaf, read both back
    stored     the content of the authority's Secret, read whatever it holds
    rotation   what the leader does next (pure)
    leaf       what a webhook replica does next (pure)
    bundles    caBundle of the webhook's configuration: read, compare, patch
"""
