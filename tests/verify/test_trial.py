from prunella.verify.trial import fill_default_templates


def test_texts_of_the_parameters_are_filled_in_and_the_rest_of_the_graph_is_left():
    graph = "cmd: tune ${finetune.stage}/${item} ${finetune.data} ${absent.key} ${students}"
    defaults = {"finetune": {"stage": "distilled", "data": {"own": {}}}, "students": ["sd-tiny"]}
    assert (
        fill_default_templates(graph, defaults)
        == "cmd: tune distilled/${item} ${finetune.data} ${absent.key} ${students}"
    )
