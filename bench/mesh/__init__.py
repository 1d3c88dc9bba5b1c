"""The article's experiment: two pods, with real sidecars between them, and with `ax`. `python -m bench mesh`.

`hosts` makes the network namespaces, `istio` the rules and Envoy's configuration, `sidecars` runs them, `stages` puts
together what is compared, `work` is what is done there, `measure` does it in turns. `figures`, `tables`, `pictures` and
`page` are what comes of it; docs/mesh.md shows it.
"""
