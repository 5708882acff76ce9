"""What happens around training: pictures, throughput, guards against bad numbers and too little memory."""
