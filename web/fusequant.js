// Nodes of this pack in, each in the color of its stage out: the menu's order, on the canvas too.
import { app } from "../../scripts/app.js";

const SETTING = "FuseQuant.NodeColors";
// the stage is the digit of the category "FuseQuant/<digit> name"; colors of ComfyUI's own palette
const COLORS = [
  { color: "#2a363b", bgcolor: "#3f5159" }, // 0 plan
  { color: "#223", bgcolor: "#335" }, // 1 load
  { color: "#323", bgcolor: "#535" }, // 2 fuse
  { color: "#322", bgcolor: "#533" }, // 3 quantize
  { color: "#232", bgcolor: "#353" }, // 4 run
  { color: "#233", bgcolor: "#355" }, // 5 save
  { color: "#332922", bgcolor: "#593930" }, // 6 measure
];

app.registerExtension({
  name: "FuseQuant.NodeColors",
  settings: [
    {
      id: SETTING,
      category: ["FuseQuant", "Node", "NodeColors"],
      name: "Color new nodes by stage",
      tooltip: "Load, fuse, quantize, run, save and measure: one color each. Saved colors stay.",
      type: "boolean",
      defaultValue: true,
    },
  ],
  // before a saved workflow is read into the node, so that its own color wins
  nodeCreated(node) {
    const stage = /^FuseQuant\/(\d)/.exec(node.constructor.nodeData?.category ?? "");
    const wanted = stage && COLORS[Number(stage[1])];
    if (!wanted || node.color || node.bgcolor) return;
    if (app.extensionManager?.setting?.get(SETTING) === false) return;
    node.color = wanted.color;
    node.bgcolor = wanted.bgcolor;
  },
});
