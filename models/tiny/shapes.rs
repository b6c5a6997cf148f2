//! Graphs of the four MLPerf Tiny shapes with weights from a seed.

use edgeward_compiler::graph::{
    Activation, DType, Graph, Kind, Node, Quantization, Tensor, TensorId, Window,
};

/// xorshift32.
pub struct Random(pub u32);

impl Random {
    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }
}

/// Name and graph of each.
pub fn all() -> [(&'static str, Graph); 4] {
    [("kws", kws()), ("vww", vww()), ("ic", ic()), ("ad", ad())]
}

/// A graph under construction, and the activation that the next layer takes.
pub struct Builder {
    pub graph: Graph,
    random: Random,
    pub here: TensorId,
}

/// Scale of every activation.
pub const SCALE: f32 = 0.05;

impl Builder {
    pub fn new(shape: &[usize]) -> Self {
        let mut it = Self {
            graph: Graph::default(),
            random: Random(0x00C0_FFEE),
            here: TensorId(0),
        };
        it.here = it.activation(shape, 3);
        it.graph.inputs.push(it.here);
        it
    }

    pub fn tensor(&mut self, tensor: Tensor) -> TensorId {
        self.graph.tensors.push(tensor);
        TensorId(self.graph.tensors.len() - 1)
    }

    pub fn activation(&mut self, shape: &[usize], zero_point: i32) -> TensorId {
        self.scaled(shape, SCALE, zero_point)
    }

    pub fn scaled(&mut self, shape: &[usize], scale: f32, zero_point: i32) -> TensorId {
        let name = format!("activation {}", self.graph.tensors.len());
        self.tensor(Tensor {
            name,
            shape: shape.to_vec(),
            dtype: DType::I8,
            quantization: Some(Quantization {
                scales: vec![scale],
                zero_points: vec![zero_point],
                axis: 0,
            }),
            data: None,
        })
    }

    /// Weights and biases of `outputs` channels along `axis`, `taps` products each.
    fn weights(&mut self, shape: &[usize], axis: usize, taps: usize) -> [Option<TensorId>; 2] {
        let outputs = shape[axis];
        let count: usize = shape.iter().product();
        let data = (0..count).map(|_| ((self.random.next() % 255) as i32 - 127) as u8);
        let data = data.collect();
        // Sums of random products are about 74 * 74 * sqrt(taps); outputs shall be about 50.
        let spread = |random: &mut Random| 0.75 + (random.next() % 512) as f32 / 1024.0;
        let base = 50.0 / (5476.0 * (taps as f32).sqrt());
        let scales: Vec<f32> = (0..outputs)
            .map(|_| base * spread(&mut self.random))
            .collect();
        let biases = (0..outputs).map(|_| (self.random.next() % 8192) as i32 - 4096);
        let biases: Vec<u8> = biases.flat_map(i32::to_le_bytes).collect();
        let quantization = |scales: Vec<f32>, axis| Quantization {
            zero_points: vec![0; scales.len()],
            scales,
            axis,
        };
        let input = self.graph.tensor(self.here).per_tensor();
        let input = input.map_or(SCALE, |(scale, _)| scale);
        let bias_scales = scales.iter().map(|scale| scale * input).collect();
        let weights = self.tensor(Tensor {
            name: format!("weights {}", self.graph.tensors.len()),
            shape: shape.to_vec(),
            dtype: DType::I8,
            quantization: Some(quantization(scales, axis)),
            data: Some(data),
        });
        let biases = self.tensor(Tensor {
            name: format!("biases {}", self.graph.tensors.len()),
            shape: vec![outputs],
            dtype: DType::I32,
            quantization: Some(quantization(bias_scales, 0)),
            data: Some(biases),
        });
        [Some(weights), Some(biases)]
    }

    pub fn node(
        &mut self,
        kind: Kind,
        inputs: Vec<Option<TensorId>>,
        output: TensorId,
    ) -> TensorId {
        let name = format!("node {}", self.graph.nodes.len());
        self.graph.nodes.push(Node {
            name,
            kind,
            inputs,
            outputs: vec![output],
        });
        self.here = output;
        output
    }

    pub fn shape(&self) -> [usize; 4] {
        let shape = &self.graph.tensor(self.here).shape;
        [shape[0], shape[1], shape[2], shape[3]]
    }

    /// A window over the current activation, padded so that outputs are its size over the stride.
    pub fn window(&self, kernel: [usize; 2], stride: usize) -> (Window, [usize; 2]) {
        let [_, height, width, _] = self.shape();
        let out = [height, width].map(|extent| extent.div_ceil(stride));
        let missing = |axis: usize, extent: usize| {
            ((out[axis] - 1) * stride + kernel[axis]).saturating_sub(extent)
        };
        let (down, across) = (missing(0, height), missing(1, width));
        let window = Window {
            kernel,
            stride: [stride; 2],
            dilation: [1; 2],
            padding: [down / 2, across / 2, down.div_ceil(2), across.div_ceil(2)],
        };
        (window, out)
    }

    pub fn conv(
        &mut self,
        outputs: usize,
        kernel: [usize; 2],
        stride: usize,
        relu: bool,
    ) -> TensorId {
        let [.., depth] = self.shape();
        let (window, [height, width]) = self.window(kernel, stride);
        let taps = kernel[0] * kernel[1] * depth;
        let [weights, biases] = self.weights(&[outputs, kernel[0], kernel[1], depth], 0, taps);
        let (activation, zero) = activation(relu);
        let output = self.activation(&[1, height, width, outputs], zero);
        let inputs = vec![Some(self.here), weights, biases];
        self.node(Kind::Conv { window, activation }, inputs, output)
    }

    pub fn depthwise(&mut self, kernel: [usize; 2], stride: usize, relu: bool) -> TensorId {
        self.depthwise_of(kernel, stride, 1, relu)
    }

    /// A depthwise layer of several outputs an input channel.
    pub fn depthwise_of(
        &mut self,
        kernel: [usize; 2],
        stride: usize,
        multiplier: usize,
        relu: bool,
    ) -> TensorId {
        let [.., depth] = self.shape();
        let outputs = depth * multiplier;
        let (window, [height, width]) = self.window(kernel, stride);
        let taps = kernel[0] * kernel[1];
        let [weights, biases] = self.weights(&[1, kernel[0], kernel[1], outputs], 3, taps);
        let (activation, zero) = activation(relu);
        let output = self.activation(&[1, height, width, outputs], zero);
        let inputs = vec![Some(self.here), weights, biases];
        let kind = Kind::Depthwise {
            window,
            multiplier,
            activation,
        };
        self.node(kind, inputs, output)
    }

    pub fn dense(&mut self, inputs: usize, outputs: usize, relu: bool) -> TensorId {
        let [weights, biases] = self.weights(&[outputs, inputs], 0, inputs);
        let (activation, zero) = activation(relu);
        let output = self.activation(&[1, outputs], zero);
        let inputs = vec![Some(self.here), weights, biases];
        self.node(Kind::Dense { activation }, inputs, output)
    }

    pub fn add(&mut self, a: TensorId, b: TensorId) -> TensorId {
        let shape = self.graph.tensor(a).shape.clone();
        let (activation, zero) = activation(true);
        let output = self.scaled(&shape, SCALE * 1.25, zero);
        let inputs = vec![Some(a), Some(b)];
        self.node(Kind::Add { activation }, inputs, output)
    }

    /// Average over everything, a dense layer, and a softmax.
    pub fn classify(mut self, classes: usize) -> Graph {
        let [_, height, width, depth] = self.shape();
        let window = Window {
            kernel: [height, width],
            stride: [height, width],
            dilation: [1; 2],
            padding: [0; 4],
        };
        let quantization = self.graph.tensor(self.here).quantization.clone();
        let mut same = |shape: &[usize]| {
            let id = self.activation(shape, 0);
            self.graph.tensors[id.0]
                .quantization
                .clone_from(&quantization);
            id
        };
        let (pooled, flat) = (same(&[1, 1, 1, depth]), same(&[1, depth]));
        let activation = Activation::None;
        let inputs = vec![Some(self.here)];
        self.node(Kind::AveragePool { window, activation }, inputs, pooled);
        self.node(Kind::Reshape, vec![Some(pooled)], flat);
        self.dense(depth, classes, false);
        self.softmax();
        self.finish()
    }

    /// Shares along the last axis.
    pub fn softmax(&mut self) -> TensorId {
        let shape = self.graph.tensor(self.here).shape.clone();
        let output = self.scaled(&shape, 1.0 / 256.0, -128);
        self.node(Kind::Softmax { beta: 1.0 }, vec![Some(self.here)], output)
    }

    pub fn finish(mut self) -> Graph {
        self.graph.outputs.push(self.here);
        self.graph
    }
}

/// Activation and zero point of a layer's output.
fn activation(relu: bool) -> (Activation, i32) {
    if relu {
        (Activation::Relu, -128)
    } else {
        (Activation::None, 5)
    }
}

/// DS-CNN: keyword spotting.
fn kws() -> Graph {
    let mut it = Builder::new(&[1, 49, 10, 1]);
    it.conv(64, [10, 4], 2, true);
    for _ in 0..4 {
        it.depthwise([3, 3], 1, true);
        it.conv(64, [1, 1], 1, true);
    }
    it.classify(12)
}

/// MobileNetV1 0.25: visual wake words.
fn vww() -> Graph {
    let mut it = Builder::new(&[1, 96, 96, 3]);
    it.conv(8, [3, 3], 2, true);
    let layers = [
        (16, 1),
        (32, 2),
        (32, 1),
        (64, 2),
        (64, 1),
        (128, 2),
        (128, 1),
        (128, 1),
        (128, 1),
        (128, 1),
        (128, 1),
        (256, 2),
        (256, 1),
    ];
    for (outputs, stride) in layers {
        it.depthwise([3, 3], stride, true);
        it.conv(outputs, [1, 1], 1, true);
    }
    it.classify(2)
}

/// ResNet-8: image classification.
fn ic() -> Graph {
    let mut it = Builder::new(&[1, 32, 32, 3]);
    let mut stem = it.conv(16, [3, 3], 1, true);
    for (outputs, stride) in [(16, 1), (32, 2), (64, 2)] {
        it.conv(outputs, [3, 3], stride, true);
        let branch = it.conv(outputs, [3, 3], 1, false);
        if stride > 1 {
            it.here = stem;
            stem = it.conv(outputs, [1, 1], stride, false);
        }
        stem = it.add(stem, branch);
    }
    it.classify(10)
}

/// Autoencoder: anomaly detection.
fn ad() -> Graph {
    let mut it = Builder::new(&[1, 640]);
    let mut inputs = 640;
    for outputs in [128, 128, 128, 128, 8, 128, 128, 128, 128] {
        it.dense(inputs, outputs, true);
        inputs = outputs;
    }
    it.dense(inputs, 640, false);
    it.finish()
}
