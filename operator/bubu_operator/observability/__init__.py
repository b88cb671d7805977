"""What the operator tells about itself: logs now, metrics beside them."""
