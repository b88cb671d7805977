"""The whole product on real nodes: the image, the chart, real pods, and what may happen to them."""
