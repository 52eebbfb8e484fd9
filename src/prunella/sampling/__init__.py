"""Everything that makes images with a model: benchmark images, training images, class images."""
