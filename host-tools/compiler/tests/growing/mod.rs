//! Random graphs: networks that grow by random operators, and single operators; what they must give.

use edgeward::program::{Aligned, Portable, Program};
use edgeward_compiler::graph::{
    Activation, DType, Graph, Kind, Node, Quantization, Tensor, TensorId, Unary, Window,
};
use edgeward_compiler::{Options, compile_graph};

/// A graph that grows by random operators.
struct Growing {
    graph: Graph,
    random: u64,
    /// Tensors that an operator may read, each of four axes.
    images: Vec<TensorId>,
}

impl Growing {
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 33) as usize % limit
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn byte(&mut self) -> i8 {
        self.below(256) as u8 as i8
    }

    fn scale(&mut self) -> f32 {
        0.1 + self.below(1000) as f32 * 0.0006
    }

    fn tensor(&mut self, shape: Vec<usize>, quantization: Option<Quantization>) -> TensorId {
        let name = format!("t{}", self.graph.tensors.len());
        let tensor = Tensor {
            name,
            shape,
            dtype: DType::I8,
            quantization,
            data: None,
        };
        self.graph.tensors.push(tensor);
        TensorId(self.graph.tensors.len() - 1)
    }

    fn quantization(&mut self) -> Quantization {
        let zero = if self.chance(40) {
            -128
        } else {
            i32::from(self.byte())
        };
        Quantization {
            scales: vec![self.scale()],
            zero_points: vec![zero],
            axis: 0,
        }
    }

    fn quantization_of(&self, id: TensorId) -> Quantization {
        self.graph.tensor(id).quantization.clone().unwrap()
    }

    fn shape(&self, id: TensorId) -> Vec<usize> {
        self.graph.tensor(id).shape.clone()
    }

    fn node(&mut self, kind: Kind, inputs: Vec<Option<TensorId>>, output: TensorId) {
        let name = format!("n{}", self.graph.nodes.len());
        self.graph.nodes.push(Node {
            name,
            kind,
            inputs,
            outputs: vec![output],
        });
        if self.graph.tensor(output).shape.len() == 4 {
            self.images.push(output);
        }
    }

    /// Mostly none: another leaves little of a range whose zero point lies near its end.
    fn activation(&mut self) -> Activation {
        match self.below(10) {
            0 => Activation::Relu,
            1 => Activation::Relu6,
            2 => Activation::ReluN1To1,
            _ => Activation::None,
        }
    }

    /// Weights with zeros by rows and columns, so that channels die.
    fn weights(&mut self, of: TensorId, shape: Vec<usize>, axis: usize) -> (TensorId, TensorId) {
        let outputs = shape[axis];
        let (last, elements) = (shape[shape.len() - 1], shape.iter().product::<usize>());
        let dead_outputs: Vec<bool> = (0..outputs).map(|_| self.chance(20)).collect();
        let dead_inputs: Vec<bool> = (0..last).map(|_| self.chance(15)).collect();
        let data = (0..elements).map(|at| {
            let output = if axis == 0 {
                at * outputs / elements
            } else {
                at % outputs
            };
            match dead_outputs[output] || (axis == 0 && dead_inputs[at % last]) {
                true => 0,
                false => self.byte() as u8,
            }
        });
        let data = data.collect();
        // Most layers' sums are about as wide as what they read, whatever their number of terms; the others
        // clamp.
        let share = match self.chance(80) {
            true => 0.05 / ((elements / outputs) as f32).sqrt(),
            false => 0.05,
        };
        let scales: Vec<f32> = (0..outputs)
            .map(|_| {
                if self.chance(5) {
                    1e-9
                } else {
                    self.scale() * share
                }
            })
            .collect();
        let quantization = Quantization {
            scales,
            zero_points: vec![0; outputs],
            axis,
        };
        let factor = self.quantization_of(of).scales[0];
        let products = Quantization {
            scales: quantization.scales.iter().map(|it| it * factor).collect(),
            axis: 0,
            ..quantization.clone()
        };
        let weights = self.tensor(shape, Some(quantization));
        self.graph.tensors[weights.0].data = Some(data);
        let bias = self.tensor(vec![outputs], Some(products));
        let biases = (0..outputs).flat_map(|_| ((self.below(4000) as i32) - 2000).to_le_bytes());
        let biases = biases.collect();
        self.graph.tensors[bias.0].data = Some(biases);
        self.graph.tensors[bias.0].dtype = DType::I32;
        (weights, bias)
    }

    fn window(&mut self, image: [usize; 2], pad: bool) -> Window {
        let kernel = image.map(|extent| if extent >= 3 && self.chance(70) { 3 } else { 1 });
        let stride = [1 + self.below(2), 1 + self.below(2)];
        let mut padding = [0; 4];
        for (side, padding) in padding.iter_mut().enumerate() {
            *padding = if pad && kernel[side % 2] == 3 {
                self.below(2)
            } else {
                0
            };
        }
        Window {
            kernel,
            stride,
            dilation: [1, 1],
            padding,
        }
    }

    fn slid(window: &Window, image: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| {
            let padded = image[axis] + window.padding[axis] + window.padding[axis + 2];
            (padded - window.kernel[axis]) / window.stride[axis] + 1
        })
    }

    fn grow(&mut self) {
        let newest = self.images.len() - 1;
        let place = if self.chance(75) {
            newest
        } else {
            self.below(newest + 1)
        };
        let input = self.images[place];
        let shape = self.shape(input);
        let (image, c) = ([shape[1], shape[2]], shape[3]);
        let quantization = self.quantization();
        match self.below(12) {
            0..=2 => {
                let window = self.window(image, true);
                let [h, w] = Self::slid(&window, image);
                let out = 1 + self.below(7);
                let (weights, bias) =
                    self.weights(input, vec![out, window.kernel[0], window.kernel[1], c], 0);
                let output = self.tensor(vec![1, h, w, out], Some(quantization));
                let activation = self.activation();
                let bias = self.chance(80).then_some(bias);
                let inputs = vec![Some(input), Some(weights), bias];
                self.node(Kind::Conv { window, activation }, inputs, output);
            }
            3 => {
                let window = self.window(image, true);
                let [h, w] = Self::slid(&window, image);
                let multiplier = 1 + self.below(2);
                let shape = vec![1, window.kernel[0], window.kernel[1], c * multiplier];
                let (weights, bias) = self.weights(input, shape, 3);
                let output = self.tensor(vec![1, h, w, c * multiplier], Some(quantization));
                let activation = self.activation();
                let kind = Kind::Depthwise {
                    window,
                    multiplier,
                    activation,
                };
                self.node(kind, vec![Some(input), Some(weights), Some(bias)], output);
            }
            4 => {
                let window = self.window(image, true);
                let [h, w] = Self::slid(&window, image);
                let same = self.quantization_of(input);
                let output = self.tensor(vec![1, h, w, c], Some(same));
                let activation = self.activation();
                let kind = match self.chance(50) {
                    true => Kind::AveragePool { window, activation },
                    false => Kind::MaxPool { window, activation },
                };
                self.node(kind, vec![Some(input)], output);
            }
            5 => {
                let functions = [
                    Unary::Relu,
                    Unary::Relu6,
                    Unary::Requantize,
                    Unary::LeakyRelu { alpha: 0.2 },
                ];
                let function = functions[self.below(4)];
                let same = self.quantization_of(input);
                let quantization = if self.chance(60) { same } else { quantization };
                let output = self.tensor(shape, Some(quantization));
                self.node(Kind::Unary(function), vec![Some(input)], output);
            }
            6 | 7 => self.residual(input),
            8 | 9 => {
                let others: Vec<TensorId> = self
                    .images
                    .iter()
                    .copied()
                    .filter(|&id| self.shape(id) == shape)
                    .collect();
                let other = others[self.below(others.len())];
                let output = self.tensor(shape, Some(quantization));
                let activation = self.activation();
                let kind = match self.below(4) {
                    0 => Kind::Sub { activation },
                    1 => Kind::Mul { activation },
                    _ => Kind::Add { activation },
                };
                self.node(kind, vec![Some(input), Some(other)], output);
            }
            10 => {
                let same = self.quantization_of(input);
                let value = if self.chance(80) {
                    same.zero_points[0] as i8
                } else {
                    self.byte()
                };
                let [h, w] = [self.below(2), self.below(2)];
                let padding = vec![[0, 0], [h, 1], [w, 0], [0, 0]];
                let shape = vec![1, shape[1] + h + 1, shape[2] + w, c];
                let output = self.tensor(shape, Some(same));
                self.node(Kind::Pad { padding, value }, vec![Some(input)], output);
            }
            _ => {
                let same = self.quantization_of(input);
                let fits = |&id: &TensorId| {
                    self.shape(id)[..3] == shape[..3] && self.quantization_of(id) == same
                };
                let beside: Vec<TensorId> = self.images.iter().copied().filter(fits).collect();
                let other = beside[self.below(beside.len())];
                let channels = c + self.shape(other)[3];
                let output = self.tensor(vec![1, shape[1], shape[2], channels], Some(same));
                self.node(
                    Kind::Concat { axis: 3 },
                    vec![Some(input), Some(other)],
                    output,
                );
            }
        }
    }

    /// A convolution that keeps the shape, and its sum with what it read.
    fn residual(&mut self, input: TensorId) {
        let shape = self.shape(input);
        let side = usize::from(shape[1] >= 3 && shape[2] >= 3);
        let window = Window {
            kernel: [1 + 2 * side; 2],
            stride: [1; 2],
            dilation: [1; 2],
            padding: [side; 4],
        };
        let weights = vec![shape[3], 1 + 2 * side, 1 + 2 * side, shape[3]];
        let (weights, bias) = self.weights(input, weights, 0);
        let quantization = self.quantization();
        let between = self.tensor(shape.clone(), Some(quantization));
        let activation = self.activation();
        let inputs = vec![Some(input), Some(weights), Some(bias)];
        self.node(Kind::Conv { window, activation }, inputs, between);
        let quantization = self.quantization();
        let output = self.tensor(shape, Some(quantization));
        let activation = self.activation();
        let inputs = match self.chance(50) {
            true => vec![Some(input), Some(between)],
            false => vec![Some(between), Some(input)],
        };
        self.node(Kind::Add { activation }, inputs, output);
    }

    /// Operators that grow none of the networks.
    fn other(&mut self) {
        let input = self.images[0];
        let shape = self.shape(input);
        let same = self.quantization_of(input);
        let fixed = |scale: f32, zero: i32| Quantization {
            scales: vec![scale],
            zero_points: vec![zero],
            axis: 0,
        };
        let drawn = self.quantization();
        let (kind, shape, quantization) = match self.below(7) {
            0 => (Kind::Softmax { beta: 1.0 }, shape, fixed(1.0 / 256.0, -128)),
            1 => {
                let shape = vec![1, 1, 1, shape[3]];
                (Kind::Mean { axes: vec![1, 2] }, shape, drawn)
            }
            2 => (Kind::Unary(Unary::Tanh), shape, fixed(1.0 / 128.0, 0)),
            3 => (
                Kind::Unary(Unary::Logistic),
                shape,
                fixed(1.0 / 256.0, -128),
            ),
            4 => (Kind::Unary(Unary::HardSwish), shape, drawn),
            5 => {
                let permutation = vec![0, 2, 1, 3];
                let shape = vec![1, shape[2], shape[1], shape[3]];
                (Kind::Transpose { permutation }, shape, same)
            }
            _ => {
                let elements = self.graph.tensor(input).elements();
                (Kind::Reshape, vec![1, elements], same)
            }
        };
        let output = self.tensor(shape, Some(quantization));
        self.node(kind, vec![Some(input)], output);
        if self.graph.tensor(output).shape.len() == 2 {
            self.dense(output);
        }
    }

    /// Ends in a dense layer, over the image laid flat.
    fn finish(mut self) -> Graph {
        let last = self.images[self.images.len() - 1];
        let elements = self.graph.tensor(last).elements();
        let same = self.quantization_of(last);
        let flat = self.tensor(vec![1, elements], Some(same));
        self.node(Kind::Reshape, vec![Some(last)], flat);
        let output = self.dense(flat);
        self.graph.outputs = vec![output];
        self.graph
    }

    fn dense(&mut self, flat: TensorId) -> TensorId {
        let elements = self.graph.tensor(flat).elements();
        let outputs = 2 + self.below(5);
        let (weights, bias) = self.weights(flat, vec![outputs, elements], 0);
        let quantization = self.quantization();
        let output = self.tensor(vec![1, outputs], Some(quantization));
        let activation = self.activation();
        let inputs = vec![Some(flat), Some(weights), Some(bias)];
        self.node(Kind::Dense { activation }, inputs, output);
        output
    }
}

/// A state to begin with, another for each seed; none is 0.
fn state(seed: u64) -> u64 {
    (seed << 1 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn started(seed: u64) -> Growing {
    let mut growing = Growing {
        graph: Graph::default(),
        random: state(seed),
        images: Vec::new(),
    };
    (0..8).for_each(|_| {
        growing.below(2);
    });
    let shape = vec![
        1,
        1 + growing.below(7),
        1 + growing.below(7),
        1 + growing.below(5),
    ];
    let quantization = growing.quantization();
    let input = growing.tensor(shape, Some(quantization));
    growing.graph.inputs = vec![input];
    growing.images.push(input);
    growing
}

/// A network: one to nine operators and a dense layer.
pub fn network(seed: u64) -> Graph {
    let mut growing = started(seed);
    for _ in 0..1 + growing.below(9) {
        growing.grow();
    }
    growing.finish()
}

/// A single operator, or a convolution and its sum.
pub fn operator(seed: u64) -> Graph {
    let mut growing = started(seed);
    if growing.chance(60) {
        growing.grow();
    } else {
        growing.other();
    }
    let last = growing.graph.nodes.last().expect("a node");
    growing.graph.outputs.clone_from(&last.outputs);
    growing.graph
}

/// A graph's program.
pub fn compiled(graph: &Graph, options: &Options) -> Aligned<u8> {
    let compiled = compile_graph(graph.clone(), options);
    let compiled = compiled.unwrap_or_else(|error| panic!("{error}"));
    Aligned::copy_of(&compiled.program)
}

/// The outputs of a graph under `options` for the given inputs, by portable kernels.
pub fn outputs(graph: &Graph, options: &Options, inputs: &[impl AsRef<[i8]>]) -> Vec<Vec<i8>> {
    let bytes = compiled(graph, options);
    let program = Program::verify(bytes.as_ref()).unwrap();
    let header = program.header();
    let (input, output) = (header.input as usize, header.output as usize);
    let mut arena = Aligned::zeros(header.arena_bytes as usize);
    let mut run = |elements: &[i8]| {
        let arena = arena.as_mut();
        arena[input..input + elements.len()].copy_from_slice(elements);
        program.run(&mut Portable, arena).unwrap();
        arena[output..output + header.output_len as usize].to_vec()
    };
    inputs.iter().map(|it| run(it.as_ref())).collect()
}

/// The outputs that every engine must give: those without rewrites, in the natural layout, in a disjoint
/// arena.
pub fn definition(graph: &Graph, inputs: &[impl AsRef<[i8]>]) -> Vec<Vec<i8>> {
    let plain = Options {
        rewrites: &[],
        ..Options::linux()
    };
    outputs(graph, &plain, inputs)
}

/// Inputs for a graph: extremes, then random ones.
pub fn inputs(graph: &Graph, seed: u64) -> Vec<Vec<i8>> {
    let elements = graph.tensor(graph.inputs[0]).elements();
    let mut values = Growing {
        graph: Graph::default(),
        random: state(seed),
        images: Vec::new(),
    };
    let mut inputs = vec![vec![i8::MIN; elements], vec![i8::MAX; elements]];
    inputs.extend((0..4).map(|_| (0..elements).map(|_| values.byte()).collect()));
    inputs
}
