"""From a network and its clips to trained weights: schedule, checkpoint, loop, and the jobs around them."""
