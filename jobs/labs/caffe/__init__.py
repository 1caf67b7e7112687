"""What Caffe calls CaffeNet, without Caffe: its files (`files`), the network (`net`), a check (`opencv`)."""
