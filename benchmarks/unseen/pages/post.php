<?php
require 'common.php';
$query = $db->prepare('INSERT INTO posts (thread, author, text) VALUES (?, ?, ?)');
$query->execute([(int) ($_POST['thread'] ?? 1), $_SESSION['name'] ?? 'guest', substr($_POST['text'] ?? '', 0, 2000)]);
http_response_code(201);
page('Thank you', 'number ' . $db->lastInsertId());
