"""PyTorch Geometric: graphs in batches of their own kind, one graph, its LightningDataset."""

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from _check import Client
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GAE, GCNConv, GINConv, global_add_pool
from torch_geometric.utils import erdos_renyi_graph


def graph(seed: int) -> Data:
    torch.manual_seed(seed)
    num_nodes = 6 + seed % 5
    edges = erdos_renyi_graph(num_nodes, 0.4)
    x = torch.randn(num_nodes, 8)
    return Data(
        x,
        edges,
        y=torch.tensor([seed % 3]),
        target=torch.randn(1, 1),
        node_class=torch.randint(3, (num_nodes,)),
    )


GRAPHS = [graph(seed) for seed in range(96)]
ONE_GRAPH = Data(
    torch.randn(60, 8),
    erdos_renyi_graph(60, 0.1),
    y=torch.randint(3, (60,)),
    train_mask=torch.arange(60) < 40,
)


class Training(pl.LightningModule):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class GIN(Training):
    def __init__(self, num_outputs: int = 3) -> None:
        super().__init__()
        self.conv = GINConv(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU()))
        self.head = nn.Linear(16, num_outputs)

    def forward(self, data: Data) -> Tensor:
        x = self.conv(data.x, data.edge_index)
        return self.head(global_add_pool(x, data.batch))

    def training_step(self, data: Data, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(data), data.y)


class GraphRegression(GIN):
    def __init__(self) -> None:
        super().__init__(1)

    def training_step(self, data: Data, batch_idx: int) -> Tensor:
        return F.l1_loss(self(data), data.target)


class GCN(Training):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = GCNConv(8, 16), GCNConv(16, 3)

    def forward(self, data: Data) -> Tensor:
        return self.conv2(self.conv1(data.x, data.edge_index).relu(), data.edge_index)

    def training_step(self, data: Data, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(data), data.node_class)


class GCNOfOneGraph(GCN):
    def training_step(self, data: Data, batch_idx: int) -> Tensor:
        mask = data.train_mask
        return F.cross_entropy(self(data)[mask], data.y[mask])


class AutoEncoder(Training):
    def __init__(self) -> None:
        super().__init__()
        self.model = GAE(GCNConv(8, 4))

    def training_step(self, data: Data, batch_idx: int) -> Tensor:
        z = self.model.encode(data.x, data.edge_index)
        return self.model.recon_loss(z, data.edge_index)


def graphs() -> Any:
    return DataLoader(GRAPHS, batch_size=8, shuffle=True)


CLIENTS = [
    Client("GIN, graph classification", GIN, graphs),
    Client("GIN, graph regression, L1", GraphRegression, graphs),
    Client("GCN, node classification in many graphs", GCN, graphs),
    Client(
        "GCN, node classification in one graph",
        GCNOfOneGraph,
        lambda: DataLoader([ONE_GRAPH], batch_size=1),
    ),
    Client("GAE, links", AutoEncoder, graphs),
]
